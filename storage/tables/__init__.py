"""Schemas, Arrow tables and Parquet files. Imports only `storage.records` and `storage.errors`."""
