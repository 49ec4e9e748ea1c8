"""Which models' prompts can share a prefix: by their row of the table, their attention and their layers."""

from __future__ import annotations

from cmrm.models.families import Family
from cmrm.models.family_lookup import is_of_table
from cmrm.models.family_table import FAMILIES
from cmrm.models.vlm import VisionLanguageModel

# Attention implementations that accept any 4-D mask.
MASKED = ("sdpa", "eager")
# Layer types whose KV cache has an entry for each token, which a mask can select.
KINDS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


def explain_unshared(vlm: VisionLanguageModel, *, images: int) -> str | None:
    """Explain why this model cannot share prefixes of prompts with so many images; None if it can."""
    family, implementation = vlm.family, vlm.model.config.get_text_config()._attn_implementation
    if reason := _explain_row(family, images=images):
        return reason
    if implementation not in MASKED:
        return (
            f"attention is computed by {implementation}; prefixes are shared under {', '.join(MASKED)} only"
        )
    if unsupported := set(getattr(vlm.model.config.get_text_config(), "layer_types", None) or ()) - KINDS:
        return f"its backbone has blocks of {', '.join(sorted(unsupported))}, whose cache has no entry for each token"
    if family == FAMILIES.get(family.model_type) and not is_of_table(family, vlm.model):
        own = type(vlm.model).__name__
        return f"its class {own} is not the one of transformers that the row of {family.model_type} describes"
    return None


def _explain_row(family: Family, *, images: int) -> str | None:
    if not family.batches:
        return f"{family.model_type} is read one prompt at a time"
    if family.shares == "nothing":
        return f"the row of {family.model_type} does not say that its prompts can share a prefix"
    if family.shares == "text" and images:
        return f"{family.model_type} shares the prefixes of prompts with no image only"
    return None
