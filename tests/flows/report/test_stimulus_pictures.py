"""The meaningless images of a run as its page shows them: behind the processor where that was kept."""

from __future__ import annotations

import io
from base64 import b64decode
from dataclasses import asdict
from typing import Any

from PIL import Image

from cmrm.prompts.data_uri import to_png_uri
from cmrm.prompts.meaningless_images import MeaninglessImage
from flows.report.stimulus_pictures import StimulusPicture, draw_stimuli
from storage.records.manifest import Manifest
from tasks.report.summary import StimulusSummary

BLANK = MeaninglessImage(kind="blank", size=64, color=(255, 255, 255))
RED = to_png_uri(Image.new("RGB", (8, 4), "red"))


def draw(seen: dict[str, Any]) -> list[StimulusPicture]:
    return draw_all({"m": seen})


def draw_all(seen_by: dict[str, dict[str, Any]]) -> list[StimulusPicture]:
    figures: dict[str, Any] = {
        "width": 64,
        "height": 64,
        "low": (1.0,),
        "high": (1.0,),
        "contrast": (0.0, 0.0, 0.0),
        "uniform": True,
        "tokens": 4,
        "distinct": 4,
    }
    manifests = [
        Manifest(
            stage="generate",
            key="0" * 64,
            schema_version=1,
            files=(),
            content={"condition": "blank", "name": model, "image": asdict(BLANK)},
            provenance={"stimuli": {"blank": {**figures, **seen}}},
            created_at="2026-01-01T00:00:00+00:00",
        )
        for model, seen in seen_by.items()
    ]
    summaries = [
        StimulusSummary(model=model, image="blank", size_from="family", **figures) for model in seen_by
    ]
    return draw_stimuli(manifests * 2, summaries)


def read(picture: StimulusPicture) -> Image.Image:
    return Image.open(io.BytesIO(b64decode(picture.uri.partition(",")[2])))


def test_what_the_tower_got_is_shown_once_with_its_tiles_and_contrast() -> None:
    (picture,) = draw({"view": {"uri": RED, "shown": 2, "tiles": 5}})
    assert read(picture).getcolors() == [(32, (255, 0, 0))]
    assert picture.caption == (
        "blank, 64 × 64 pixels, pixels sampled behind the processor (of 2 of its 5 tiles); "
        "contrast 0.0 where the vision tower sees it"
    )


def test_answers_of_an_earlier_release_show_the_image_as_it_was_before_the_processor() -> None:
    (picture,) = draw({})
    assert read(picture).getcolors() == [(64 * 64, (255, 255, 255))]
    assert "64 × 64 pixels, before the processor" in picture.caption


def test_a_picture_says_which_models_it_was_shown_to_where_others_were_shown_another() -> None:
    blue = to_png_uri(Image.new("RGB", (8, 4), "blue"))
    views = [{"view": {"uri": uri, "shown": 1, "tiles": 1}} for uri in (RED, blue)]
    first, second = draw_all({"a@1": views[0], "b@1": views[1], "c@1": views[0]})
    assert first.caption.endswith("; shown to a, c")
    assert second.caption.endswith("; shown to b")
    (same,) = draw_all({"a@1": views[0], "b@1": views[0]})
    assert "shown to" not in same.caption


def test_an_address_in_a_manifest_is_never_put_on_the_page() -> None:
    (picture,) = draw({"view": {"uri": "https://example.org/x.png", "shown": 1, "tiles": 1}})
    assert picture.uri.startswith("data:image/png;base64,")
    assert "before the processor" in picture.caption
