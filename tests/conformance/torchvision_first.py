"""Imported before transformers in a process that can import torchvision: the examinations are its children."""

from __future__ import annotations

from tests.conformance.program import admit_torchvision

OPERATORS = admit_torchvision()
