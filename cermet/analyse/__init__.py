"""Looking at checkpoints: what is in one, and how several are related."""
