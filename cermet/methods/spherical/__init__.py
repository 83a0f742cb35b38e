"""Methods that average directions, by way of the Gram matrix of a tensor's models."""
