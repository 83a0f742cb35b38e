"""Checkpoints on disk: headers, slices of tensors, adapters, shards; nothing is believed unchecked."""
