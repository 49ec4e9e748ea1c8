"""What is recorded of a derived row, and told in the report."""

from __future__ import annotations

from typing import Any

from cmrm.models.families import Derivation
from flows.report.loaded_models import describe_model
from storage.records.manifest import Manifest
from tasks.shards.derived_rows import add_rows

MODEL = {
    "name": "tarsier@abc",
    "id": "tarsier",
    "revision": "sha256:abc",
    "dtype": "float32",
    "attn_implementation": "auto",
    "family": {"derived": {"rules": 1, "transformers": "5.23.0"}},
}


def make_manifest(**provenance: Any) -> Manifest:
    return Manifest(
        stage="generate",
        key="0" * 64,
        schema_version=1,
        files=(),
        provenance=provenance,
        created_at="2026-11-30T00:00:00+00:00",
    )


def test_the_report_tells_the_row_that_a_model_was_read_with() -> None:
    made = [
        make_manifest(derived_row={"model": "tarsier@abc", "row": "its row"}),
        make_manifest(derived_row={"model": "tarsier@abc", "row": "its row"}),
        make_manifest(),
    ]
    other = {**MODEL, "name": "other@abc"}
    told, untold = add_rows([MODEL, other], made)
    assert untold == other
    lines = list(describe_model(told))
    assert lines[1:] == [
        "No table lists its type; its row was derived with transformers 5.23.0.",
        "As found when it was loaded, its row.",
    ]


def test_a_derivation_names_the_transformers_that_is_installed() -> None:
    import transformers

    assert Derivation.here().transformers == transformers.__version__
