"""``caravan submit``: a run as a job of a Ray cluster."""
