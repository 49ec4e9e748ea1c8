"""Compare two runs: pair their verdicts, measure changes, judge regression. Imports `tasks.report`, `tasks.core`."""
