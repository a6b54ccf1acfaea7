"""The report of a run: statistics, figures, page."""
