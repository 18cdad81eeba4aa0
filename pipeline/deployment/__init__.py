"""A trained or compressed model as something that others run: exported with its card, opened again, streamed through."""
