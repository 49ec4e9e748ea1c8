"""Storage backends: local disk and object stores behind one interface. Imports `storage.records`."""
