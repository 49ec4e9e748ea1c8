"""What every stage shares: jobs, keys, commits, loaded models, OOM, signals. Imports no other folder of tasks."""
