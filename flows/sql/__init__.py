"""`cmrm sql`: run queries, print or export results. Imports `flows.report` and `flows.terminal`."""
