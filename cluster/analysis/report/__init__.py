"""The report: one page about one run or several, with its curves and a summary beside it."""
