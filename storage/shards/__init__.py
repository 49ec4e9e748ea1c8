"""Write and read a shard's rows: writer, partial files, hidden states. Imports `storage.store`, `storage.tables`."""
