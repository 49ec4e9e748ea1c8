"""The spec: YAML reader, schema, validation errors in one line each. Imports no other folder of flows."""
