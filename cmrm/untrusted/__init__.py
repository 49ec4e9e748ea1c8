"""Untrusted input: regular files only, printable text, redacted secrets. Imports `cmrm.errors` alone."""
