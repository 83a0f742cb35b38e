"""Methods that work on elements, and on statistics of a tensor's elements."""
