"""The graph run side by side: Ray runs the stages, DVC stays the truth."""
