"""What `scripts/on-a-gpu` runs: named checks of cmrm on models of real shape, each isolated from the others.

Imports cmrm, the OOM policy of tasks and the modules of benchmarks: all of it works with torch and transformers alone.
"""
