"""Lists for many users at once, into a file."""
