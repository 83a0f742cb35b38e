"""Tensors in, tensors out: what the methods are made of."""
