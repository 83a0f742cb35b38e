"""Benchmarks: whole commands against mergekit and against the floor, in the same run."""
