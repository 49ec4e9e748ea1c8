"""A finished run for a paper: figures to size, tables and references. Imported by `flows.run_formats` alone."""
