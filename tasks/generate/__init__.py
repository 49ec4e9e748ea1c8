"""Decode a shard's answers, several arms at once. Imports `tasks.states`, `tasks.shards` and `tasks.core`."""
