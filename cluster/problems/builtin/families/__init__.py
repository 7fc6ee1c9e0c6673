"""The families of the built-in problems, one file each."""
