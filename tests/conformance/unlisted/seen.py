"""What was seen of the types that transformers maps to image-text-to-text and no table of ours names, as tiny models.

They are examined when they are loaded. `python -m tests.conformance.unlisted` sees it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

SHARED = "prompts share prefixes"
PLAIN = "prompts are read in plain batches"
ALONE = "prompts are read one at a time"
# Of linear and sparse attention, and convolutions.
NO_ENTRIES = "some of its blocks keep no cache entry for each token"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The way in which a tiny model passes, or the check that it fails in every way, and a remark on it."""

    way: str = ""
    fails: str = ""
    remark: str = ""


SEEN: Mapping[str, Seen] = MappingProxyType(
    {
        "cohere_compass": Seen(way=SHARED),
        "cosmos3_edge": Seen(
            fails="answering",
            remark="without settings of its own, its processor gives no mm_token_type_ids, which its model demands "
            "with an image",
        ),
        "cosmos3_omni": Seen(way=SHARED),
        "deepseek_ocr2": Seen(way=SHARED),
        "dots3_note": Seen(way=PLAIN, remark=NO_ENTRIES),
        "glmga": Seen(way=SHARED),
        "granite4_vision": Seen(way=SHARED),
        "granite_docling": Seen(way=SHARED),
        "hunyuan_vl": Seen(
            way=ALONE, remark="an image's positions count the images of the rows before it in a batch"
        ),
        "hyperclovax_vision_v2": Seen(way=SHARED),
        "inkling2": Seen(way=PLAIN, remark=NO_ENTRIES),
        "inkling_mm_model": Seen(way=PLAIN, remark=NO_ENTRIES),
        "lfm3_vl": Seen(way=PLAIN, remark=NO_ENTRIES),
        "minicpm_ocr": Seen(way=PLAIN, remark=NO_ENTRIES),
        "minicpmv4_6": Seen(way=PLAIN, remark=NO_ENTRIES),
        "minicpmv4_7": Seen(way=PLAIN, remark=NO_ENTRIES),
        "minimax_m3_vl": Seen(way=SHARED),
        "mistral_large4": Seen(
            way=PLAIN,
            remark=f"{NO_ENTRIES}; with prompts of more tokens than index_topk, from which it chooses, it fails "
            "“batch, left padding” and “reference, every_step”",
        ),
        "molmo2": Seen(way=SHARED),
        "muse_glimmer": Seen(way=SHARED),
        "muse_spark": Seen(
            way=PLAIN, remark="an answer decoded beside others is not the one that its arm gives alone"
        ),
        "nemotron_h_omni": Seen(way=PLAIN, remark=NO_ENTRIES),
        "qianfan_ocr": Seen(way=SHARED),
        "qwen2_5_omni_thinker": Seen(way=SHARED),
        "qwen3_omni_moe_thinker": Seen(way=SHARED),
        "qwen4_exp": Seen(way=PLAIN, remark=NO_ENTRIES),
        "unlimited_ocr": Seen(way=PLAIN, remark=NO_ENTRIES),
    }
)
