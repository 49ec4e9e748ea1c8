"""Process a shard in batches: prefetch, batch size, OOM retries, quarantine. Imports `tasks.core`."""
