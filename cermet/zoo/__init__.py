"""Small real pools, trained here: a base, and experts for four domains of everyday requests."""
