"""From models and tasks to records: what a model is worth on each task."""
