"""Vision-language models: pinned to a revision, loaded, put on devices, and described by family.

Imports `cmrm.prompts`.
"""
