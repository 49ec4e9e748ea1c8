"""`cmrm calibrate`: sheets of answers to label, and judges held against labels. Imports `flows.report`, `flows.sql`."""
