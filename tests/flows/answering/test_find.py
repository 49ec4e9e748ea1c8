"""Arms found by what a user names: a model, a run, a spec, a file of Δ; and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

from cmrm.errors import UserError
from cmrm.prompts.conditions import Prompt
from cmrm.steering.shift import Shift
from flows.answering.arm import AnsweringArm
from flows.answering.asking import ask
from flows.answering.engine import find_engine
from flows.answering.find import ArmWish, find_arm
from storage.errors import StoreError
from tasks.states.steering import StackUse

# Every arm of the run, as users name it, and how its rows name it.
ARMS = {
    "plain": ("", None),
    "CMRM@30": ("CMRM", 30.0),
    "own": ("own", 1.0),
    "begin": ("begin", 1.0),
    "turned": ("turned", 1.0),
    "added": ("added", 1.0),
    "asked": ("asked", None),
    "both": ("both", None),
}


@pytest.fixture(scope="module")
def model(finished: Path) -> str:
    spec = yaml.safe_load((finished / "data" / "spec.yaml").read_text())
    return str(spec["model"]["id"])


def find(finished: Path, model: str, **wished: Any) -> AnsweringArm:
    return find_arm(
        ArmWish(**{"model": model, "store": str(finished / "store"), "shift": "latest", **wished})
    )


def read_answers(finished: Path, name: str, alpha: float | None) -> list[tuple[Any, ...]]:
    """Question, image file, answer and tokens of an arm's stored rows."""
    store = finished / "store"
    return duckdb.execute(
        f"""
        SELECT s.question, s.image, r.answer, r.tokens, r.prompt_tokens, r.finish_reason
        FROM read_parquet('{store}/responses/**/*.parquet', hive_partitioning = false) r
        JOIN read_parquet('{store}/samples/**/*.parquet', hive_partitioning = false) s USING (dataset, sample_id)
        WHERE r.condition = 'image' AND r.intervention = ? AND r.alpha IS NOT DISTINCT FROM ?
        """,
        [name, alpha],
    ).fetchall()


def list_shifts(finished: Path) -> dict[str, Path]:
    """The store's files of Δ by the SHA-256 of their bytes."""
    files = (finished / "store" / "shifts").rglob("*.safetensors")
    return {hashlib.sha256(file.read_bytes()).hexdigest(): file for file in files}


@pytest.mark.parametrize("route", ["run", "spec"])
def test_every_arm_of_a_run_answers_as_it_did_there(finished: Path, model: str, route: str) -> None:
    named = {} if route == "run" else {"shift": None, "spec": finished / "data" / "spec.yaml"}
    given = []
    for asked, (name, alpha) in ARMS.items():
        arm = find(finished, model, arm=asked, **named)
        rows = read_answers(finished, name, alpha)
        assert len(rows) > 5
        assert arm.max_new_tokens == 4
        for question, image, *stored in rows:
            picture = Image.open(finished / "data" / "images" / image).convert("RGB")
            answer = ask(find_engine(arm.model), arm, Prompt(text=question, image=picture))
            given.append((asked, arm, answer, stored))
    for asked, _, answer, stored in given:
        found = answer.result(60)
        assert [found.text, found.tokens, found.prompt_tokens, found.finish_reason] == stored, asked
        assert (found.proof is None) == (asked in {"plain", "asked"})


def test_a_strength_that_the_run_did_not_try_is_that_of_the_arm(finished: Path, model: str) -> None:
    arm = find(finished, model, arm="CMRM", alpha=0.25)
    (part,) = arm.describe()["interventions"]
    assert (part["name"], part["alpha"], part["blocks"]) == ("CMRM", 0.25, "upper_half")


def test_records_name_the_file_of_delta_by_its_digest(finished: Path, model: str) -> None:
    told = json.loads(json.dumps(find(finished, model, arm="CMRM@30").describe()))
    ((key, digest),) = told["shifts"].items()
    assert digest in list_shifts(finished)
    assert told["interventions"][0]["shift"] == key
    assert told["store"] == str(finished / "store")


def test_a_file_of_delta_does_what_the_run_did_with_it(finished: Path, model: str) -> None:
    digest = next(iter(find(finished, model, arm="CMRM@30").shifts.values()))
    file = list_shifts(finished)[digest]
    with safe_open(file, framework="pt") as opened:
        blocks = opened.get_tensor("blocks").tolist()
    upper = ",".join(map(str, blocks[len(blocks) // 2 :]))
    arm = find(
        finished,
        model,
        shift=str(file),
        alpha=30.0,
        blocks=tuple(map(int, upper.split(","))),
        dtype="float32",
    )
    assert arm.shifts == {file.name: digest}
    rows = read_answers(finished, "CMRM", 30.0)
    for question, image, text, *_ in rows[:4]:
        picture = Image.open(finished / "data" / "images" / image).convert("RGB")
        answer = ask(find_engine(arm.model), arm, Prompt(text=question, image=picture), max_new_tokens=4)
        assert answer.result(60).text == text


def test_a_file_of_delta_that_changes_after_it_was_named_is_refused(
    finished: Path, model: str, tmp_path: Path
) -> None:
    import cmrm

    file = tmp_path / "delta.safetensors"
    cmrm.save_shift(Shift(delta=torch.ones(1, 32), blocks=(0,), count=1), file)
    arm = find(finished, model, shift=str(file), alpha=1.0)
    cmrm.save_shift(Shift(delta=torch.zeros(1, 32), blocks=(0,), count=1), file)
    answer = ask(find_engine(arm.model), arm, Prompt(text="what is it?"), max_new_tokens=2)
    with pytest.raises(UserError, match="has changed since it was named"):
        answer.result(60)


def test_the_parts_of_a_stack_keep_their_strengths(finished: Path, model: str) -> None:
    use = find(finished, model, arm="both").use
    assert isinstance(use, StackUse)
    assert [part.name for part in use.parts] == ["turned", "added"]


def test_a_delta_of_another_model_is_refused(finished: Path, model: str, tmp_path: Path) -> None:
    import cmrm

    file = tmp_path / "other.safetensors"
    made_from = {"fingerprint": "sha256:0", "model": "another"}
    cmrm.save_shift(Shift(delta=torch.ones(1, 32), blocks=(0,), count=1, made_from=made_from), file)
    with pytest.raises(UserError, match="was measured on the files"):
        find(finished, model, shift=str(file), alpha=1.0)


def test_a_run_on_other_files_than_the_model_has_is_refused(
    finished: Path, make_llava: Any, tmp_path: Path
) -> None:
    other = make_llava(tmp_path / "other", image_size=48, patch_size=8)
    with pytest.raises(UserError, match="are not those of run"):
        find(finished, str(other), arm="plain")


@pytest.mark.parametrize(
    ("wished", "said"),
    [
        ({}, "arm: there are several, CMRM, .*plain; name one"),
        ({"arm": "nobody"}, "arm: there is no 'nobody'"),
        ({"arm": "CMRM"}, "alpha: the run has 'CMRM' at α = 30, 60 and its report selects none"),
        ({"arm": "CMRM@many"}, "'many' is no strength"),
        ({"arm": "CMRM@30", "alpha": 60.0}, "give one of the two"),
        ({"arm": "plain", "alpha": 1.0}, "plain answers have no strength"),
        ({"arm": "asked", "alpha": 1.0}, "has no strength"),
        ({"arm": "both", "alpha": 1.0}, "is a stack"),
        ({"arm": "CMRM@30", "blocks": "last"}, "blocks: it belongs to a file of Δ"),
        ({"arm": "CMRM@30", "system": "be brief."}, "system: a run or spec says it"),
        ({"shift": "delta.safetensors"}, "alpha: a file of Δ has no strength"),
        ({"shift": "delta.safetensors", "alpha": 1.0, "arm": "CMRM"}, "arm: a file of Δ has no arms"),
        ({"shift": "missing.safetensors", "alpha": 1.0}, "shift: missing.safetensors cannot be read"),
        ({"shift": None, "alpha": 1.0}, "alpha: nothing is named that has arms"),
        ({"shift": None, "dtype": "int3"}, "dtype: "),
        ({"shift": None, "revision": "v2"}, "revision: .* is a folder, which has no revisions"),
        ({"spec": Path("spec.yaml")}, "spec: a run or file of Δ is named by shift as well"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    finished: Path, model: str, wished: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        find(finished, model, **wished)


def test_the_only_arm_needs_no_name(finished: Path, model: str) -> None:
    spec = yaml.safe_load((finished / "data" / "spec.yaml").read_text())
    for interventions, name in (
        ([], "plain"),
        ([{"kind": "prompt", "name": "asked", "preset": "adashield-s"}], "asked"),
    ):
        file = finished / "data" / "few.yaml"
        file.write_text(yaml.safe_dump({**spec, "interventions": interventions}))
        assert find(finished, model, shift=None, spec=file).name == name


def test_an_unknown_run_is_refused(finished: Path, model: str) -> None:
    with pytest.raises(StoreError):
        find(finished, model, shift="20200101-000000-abcdef")


def test_an_arm_of_a_spec_that_was_not_run_needs_its_run_only_where_something_is_measured(
    finished: Path, model: str, tmp_path: Path
) -> None:
    spec = yaml.safe_load((finished / "data" / "spec.yaml").read_text())
    spec["generation"]["max_new_tokens"] = 5
    file = finished / "data" / "other.yaml"
    file.write_text(yaml.safe_dump(spec))
    empty = {"store": str(tmp_path / "store"), "shift": None, "spec": file}
    for arm in ("plain", "own", "asked"):
        assert find(finished, model, arm=arm, **empty).max_new_tokens == 5
    with pytest.raises(UserError, match="has no finished run of that spec"):
        find(finished, model, arm="CMRM@30", shift=None, spec=file)
