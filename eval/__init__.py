"""Closed-loop tasks, statistics and the report page."""
