"""Placement of a run: Ray, resources, plans and job submission."""
