"""What stands before or after a merge in a pipeline: deltas in, as many deltas out."""
