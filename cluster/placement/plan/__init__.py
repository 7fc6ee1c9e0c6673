"""The plan of a run on a cluster: who goes where, what each GPU holds, and what would be waited for."""
