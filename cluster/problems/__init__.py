"""Problems: data sets, the audit, filters and the built-in problems."""
