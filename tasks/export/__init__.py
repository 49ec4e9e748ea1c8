"""Exports of finished runs: find an arm's shift in the store, and hold an evaluated export against its source.

Imports `tasks.states` and what that imports.
"""
