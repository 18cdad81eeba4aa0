"""Parallel corpora: from anybody's files or a package of the index to split, tokenised, batched sentence pairs."""
