"""Recipes: from YAML to a plan in which every tensor has its sources, method and numbers."""
