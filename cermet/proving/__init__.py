"""The proving ground: every method on one pool, measured alike, in one table."""
