"""A spec turned stage by stage into jobs. Imports `flows.spec`."""
