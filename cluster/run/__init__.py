"""A run from start to end: sessions, training, resume, evaluation and records."""
