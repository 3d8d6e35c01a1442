"""Two versions of a model side by side: a split of users, a shadow, and what came of it."""
