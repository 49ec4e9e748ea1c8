"""Manifests, cache keys, paths and checksummed JSON records. Imports `storage.errors` alone."""
