"""Leases, heartbeats and process liveness of runs and watches in a store. Imports `storage.store`."""
