"""From a size to a transformers model, and to a directory that anybody's program can load."""
