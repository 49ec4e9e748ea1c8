"""The method (activation steering): hidden states captured, the shift Δ, and the intervention.

Imports `cmrm.prefix` and what that imports.
"""
