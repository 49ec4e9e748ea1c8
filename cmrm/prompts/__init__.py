"""Samples, conditions and images, of which prompts are made. Imports `cmrm.untrusted` alone."""
