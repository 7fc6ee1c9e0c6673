"""The report: one HTML page about one run or several, with its plots and a Markdown summary next to it."""
