"""`cmrm compare`: two runs compared, printed and written. Imports `flows.report` and `flows.terminal`."""
