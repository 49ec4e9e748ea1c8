"""SQL over a store: a read-only DuckDB database with views and macros. Imports `storage.store`, `storage.tables`."""
