"""Prefill: prompts rendered, packed into rows and run, with each shared prefix prefilled once.

Imports `cmrm.models` and `cmrm.prompts`.
"""
