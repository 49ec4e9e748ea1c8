"""Greedy decoding of all arms of a prompt in one KV cache slot. Imports `cmrm.steering` and what that imports."""
