"""Measure and remove the shift that an image causes in the hidden states of a vision-language model."""
