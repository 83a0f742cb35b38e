"""The shelf of methods: one file each, found by walking this package."""
