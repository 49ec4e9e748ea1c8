"""Load an exported checkpoint again, as its users will, and refuse keys that transformers did not take as written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor

from cmrm.export.format import ExportError
from cmrm.export.request import ExportRequest
from cmrm.models.devices import choose_device
from cmrm.models.families import Attention
from cmrm.models.image_backend import AUTO, pin_image_backend, use_image_backend
from cmrm.models.model_classes import find_classes
from cmrm.models.vlm import VisionLanguageModel, prepare_model
from cmrm.models.weights import LOAD_ERRORS, load_config, load_with_info, trust
from cmrm.untrusted.printable import first_line, show_names

# transformers' loading info; each kind of key means that what runs is not what was written.
KINDS = ("missing_keys", "unexpected_keys", "mismatched_keys")


def load_again(
    folder: Path, request: ExportRequest, *, dtype: torch.dtype, attention: Attention = "sdpa"
) -> VisionLanguageModel:
    """Load an exported folder by `AutoModelForImageTextToText`, under the row of the request.

    Raises `ExportError` for a folder that does not load, and for a missing, an unexpected or a mismatched key.
    """
    exported = replace(request.model, folder=folder)
    where = str(folder)
    backend = pin_image_backend(folder, asked=AUTO, where=where)
    try:
        classes = find_classes(exported)
        config = load_config(folder, classes, attention=attention)
        device = choose_device(request.device)
        model, found = load_with_info(folder, classes, config, dtype=dtype, device=device, where=where)
        processor = AutoProcessor.from_pretrained(folder, **trust())
        use_image_backend(processor, folder, backend=backend, where=where)
    except LOAD_ERRORS as error:
        raise ExportError(
            f"export: what was written does not load ({first_line(error)}); nothing is left of it."
        ) from error
    refuse_keys(found)
    return prepare_model(model.to(device).eval(), processor, where=where, family=request.family)


def refuse_keys(found: dict[str, Any]) -> None:
    """Raise `ExportError` for any key of transformers' loading info: a bias without a place in its class is dropped."""
    for kind in KINDS:
        names = sorted(str(one[0] if isinstance(one, tuple) else one) for one in found.get(kind) or ())
        if names:
            raise ExportError(
                f"export: transformers loads the folder with {kind.replace('_', ' ')} ({show_names(names)}), so it "
                "would not run what was written; nothing is left of it."
            )
