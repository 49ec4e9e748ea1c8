"""Judges held against people: answers to label, and what the labels say of the judges. Imports `tasks.report`."""
