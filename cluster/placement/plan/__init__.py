"""The plan of a run on a cluster: placement of its parts, GPU memory, and the bottleneck of a step."""
