"""The parity suite: random recipes through mergekit and Cermet, tensor by tensor."""
