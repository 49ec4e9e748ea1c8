"""Judge answers: verdicts per shard and judge. Imports `tasks.core` and `tasks.shards`."""
