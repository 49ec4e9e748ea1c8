"""Rates, paired tests and the geometry of hidden states. Imports `cmrm.errors` alone."""
