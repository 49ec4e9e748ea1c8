"""`cmrm view`: a local, read-only page of a store. Imports `flows.report` and `flows.sql`."""
