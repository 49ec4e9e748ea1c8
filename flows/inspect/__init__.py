"""cmrm in Inspect: the model provider, tasks, scorers, and runs as logs. Imports `flows.run` and below."""
