"""Checkpoints on disk: headers, slices of tensors, adapters, shards; all checked first."""
