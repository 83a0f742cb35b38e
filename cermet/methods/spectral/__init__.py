"""Methods on whole matrices: their singular vectors, the spaces that they span, their inputs."""
