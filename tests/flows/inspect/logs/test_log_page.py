"""The commands of the page on logs, run as they stand there; the site that they make is opened by another test."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.log import list_eval_logs, read_eval_log, write_eval_log

PAGE = Path(__file__).parents[4] / "docs" / "inspect-logs.md"


# Inspect's own call of pandas.
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_the_frames_of_the_page_hold_the_rates_and_the_answers_side_by_side(
    site, logs, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(site.parent / "logs", "logs")
    # Another model, or system, has the same arm in a run.
    (model,) = {log.eval.model for log in logs.values()}
    other = logs["own", "Image"].model_copy(deep=True)
    other.eval.model, other.eval.eval_id = "other", "another"
    for one in other.samples:
        one.uuid = f"other-{one.id}"
    write_eval_log(other, "logs/2026-11-30T00-00-00_own-Image_other.eval")
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    made: dict[str, Any] = {}
    exec(block, made)
    for (dataset, arm), log in logs.items():
        rate = log.results.scores[0].metrics.get("unsafe")
        if rate is not None:
            assert made["rates"].loc[(model, arm), dataset] == rate.value
        for one in log.samples:
            if one.scores and isinstance(value := one.scores["refusal"].value, str):
                assert made["side_by_side"].loc[(model, dataset, one.id), arm] == value
    assert made["side_by_side"].loc["other"]["Image"].size == len(other.samples)
    assert {*made["turned_safe"].index} == {
        (model, dataset, one.id)
        for (dataset, arm), log in logs.items()
        if arm == "CMRM α=1"
        for one in log.samples
        if one.scores
        and one.scores["refusal"].value == "C"
        and {before.id: before for before in logs[dataset, "Image"].samples}[one.id].scores["refusal"].value
        == "I"
    }


def test_the_commands_of_the_page_make_logs_with_images_and_without(site, logs):
    for folder, attached in (("logs", True), ("plain", False)):
        read = [read_eval_log(info) for info in list_eval_logs(str(site.parent / folder))]
        assert len(read) == len(logs)
        assert any(one.attachments for log in read for one in log.samples) is attached
