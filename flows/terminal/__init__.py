"""Escaped text and progress bars for a terminal. Imports no other folder of flows."""
