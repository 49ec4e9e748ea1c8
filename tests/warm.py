"""Imported in a process that others are forked from: transformers' table of old names of weights, made once for all."""

from __future__ import annotations

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

get_checkpoint_conversion_mapping("llava")
