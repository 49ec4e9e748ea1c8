"""The report says what vision towers saw of meaningless images, and warns of a blank that was padded."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

from flows.report.tables.stimuli import make_stimulus_table, warn_of_padding
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.report.stimuli import gather_stimuli
from tasks.report.summary import StimulusSummary

PADDED = StimulusSummary(
    model="next@1",
    image="blank",
    width=336,
    height=336,
    size_from="spec",
    low=(-1.7923, -1.7521, -1.4802),
    high=(1.9303, 2.0749, 2.1459),
    contrast=(120.2, 120.2, 120.2),
    uniform=False,
    tokens=1176,
    distinct=590,
)
CLEAN = replace(
    PADDED, width=672, height=672, low=PADDED.high, contrast=(0.0,) * 3, uniform=True, tokens=2928
)
NOISE = replace(
    CLEAN, image="noise", contrast=(39.9, 40.1, 40.0), uniform=False, stated_contrast=40.0, distinct=None
)


def test_a_padded_blank_is_warned_of_and_padded_noise_is_not() -> None:
    (line,) = warn_of_padding([PADDED, NOISE, CLEAN])
    assert line.startswith(
        "The blank image of 336 × 336 pixels is not one colour where the vision tower of next@1"
    )
    assert "−1.79 to 1.93, −1.75 to 2.07, −1.48 to 2.15 by channel" in line


def test_the_table_has_size_values_contrast_and_tokens() -> None:
    table = make_stimulus_table([CLEAN, NOISE])
    assert table is not None
    assert [[cell.text for cell in row] for group in table.row_groups for row in group.rows] == [
        ["blank", "672 × 672", "1.93, 2.07, 2.15", "0.0", "2,928", "590"],
        ["noise", "672 × 672", "1.93 to 1.93, 2.07 to 2.07, 2.15 to 2.15", "40.0 (stated: 40)", "2,928", "–"],
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(table.records[0]))
    writer.writerows(table.records)
    assert out.getvalue().splitlines()[1].startswith("next@1,noise,672,672,spec,")
    assert make_stimulus_table([]) is None


def test_each_image_of_a_model_is_gathered_once_and_earlier_results_say_nothing(tmp_path) -> None:
    store = Store.create(tmp_path / "store")
    record = {
        "width": 32, "height": 32, "size_from": "family", "low": [1.0] * 3, "high": [1.0] * 3, "contrast": [0.0] * 3,
        "uniform": True, "tokens": 16, "distinct": 16, "gain": 0.5, "a later field": 1,
    }  # fmt: skip

    def commit(number: int, provenance: dict[str, object]) -> Manifest:
        key = str(number) * 64
        return store.commit("generate", key, {}, content={"name": "m@1"}, provenance=provenance)

    made = [
        commit(1, {}),
        commit(2, {"stimuli": {"blank": record}}),
        commit(3, {"stimuli": {"blank": record}}),
    ]
    (one,) = gather_stimuli(made)
    assert (one.model, one.image, one.width, one.low, one.stated_contrast) == (
        "m@1",
        "blank",
        32,
        [1.0] * 3,
        None,
    )
