"""An α that rounding takes back is counted and told, and its answers are the plain ones; a run does not end for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from storage.sql.database import connect
from tests.flows.shared_runs import run_plainly


def test_an_alpha_without_effect_at_this_precision_is_named_in_the_report(
    llava_folder: Path, tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    spec = write_spec(
        tmp_path / "data",
        llava_folder,
        datasets={"own": {"format": "jsonl", "path": "own.jsonl", "images": "images"}},
        anchors={"from": {"own": 0.4}},
        conditions=["image"],
        target_states=[],
        interventions=[{"name": "CMRM", "alpha": [1e-7, 1.0]}],
    )
    spec.write_text(spec.read_text().replace("dtype: float32", "dtype: bfloat16"))
    run_plainly(spec, tmp_path / "store")
    with connect(tmp_path / "store") as sql:
        answers = sql.sql(
            "SELECT sample_id, answer FROM responses WHERE condition = 'image' AND alpha IS NULL ORDER BY ALL"
        ).fetchall()
        tiny = sql.sql("SELECT sample_id, answer FROM responses WHERE alpha = 1e-7 ORDER BY ALL").fetchall()
    assert tiny == answers
    (report,) = (tmp_path / "store" / "reports").glob("*/report.md")
    text = " ".join(report.read_text().split())
    assert f"CMRM α=1e-07 had no effect at this precision on {len(tiny)} of {len(tiny)} answers" in text
    assert "α=1 had no effect" not in text
