"""Tiny models of the types that no table lists and none refuses: what is seen of them, by hand and not in the suite."""
