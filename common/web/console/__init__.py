"""A console in the browser of the machine that it runs on, and of no other."""
