"""What Inspect finds under the name `cmrm`: the module of the entry point, imported at each of its starts.

It imports neither torch nor a store: what is named here imports its own module when it is used.
"""
