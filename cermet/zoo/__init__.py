"""Small real pools, trained here: a base, its experts, and the tasks to measure them on."""
