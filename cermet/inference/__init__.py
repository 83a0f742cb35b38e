"""From a checkpoint to what its model computes; the first room that may import transformers."""
