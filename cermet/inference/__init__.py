"""Checkpoints that run: logits, hidden states. The first room that may import transformers."""
