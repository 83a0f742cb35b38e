"""Compressed forms of one delta: one codec a file."""
