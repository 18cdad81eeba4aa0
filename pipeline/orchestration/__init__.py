"""The DVC graph run in parallel: Ray starts the stages, DVC decides what a stage is and keeps what it made."""
