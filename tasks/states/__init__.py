"""Hidden states into Parquet, and Δ from them. Imports `tasks.core` and `tasks.shards`."""
