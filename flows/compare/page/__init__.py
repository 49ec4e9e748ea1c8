"""The page of two or more runs, each against the first. Imports `flows.compare.words`, `flows.report`."""
