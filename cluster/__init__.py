"""The wiring: configuration, problems, the training loop, its records on disk, and the command line."""
