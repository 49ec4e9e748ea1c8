"""A run's report: sections, tables, and writers of its files and terminal text. Imports `flows.terminal` alone."""
