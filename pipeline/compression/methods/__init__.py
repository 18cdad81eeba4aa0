"""One compression method a file; a file's first lines are its card."""
