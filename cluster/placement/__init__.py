"""Where a run goes: Ray, resources, plans and job submission."""
