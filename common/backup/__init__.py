"""A role's folder in one verified file, and back."""
