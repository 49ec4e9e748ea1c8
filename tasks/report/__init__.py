"""The report of a run: tables, curves, figures, costs. Imports `tasks.core` and `tasks.data`."""
