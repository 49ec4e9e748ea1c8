"""What a run does again when one thing has changed: exactly what depends on it, and nothing else."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.run import run_spec
from flows.spec.spec import read_spec
from tasks.report import stage as report
from tests.flows.changing import (
    Change,
    Setting,
    add_a_data_set,
    append_a_row,
    change_the_template,
    change_the_weights,
    lay_an_adapter_over,
    move_everything,
    rename_a_data_set,
    rename_the_file,
    repaint_an_image,
    reverse_the_rows,
    row,
    spell_the_store_otherwise,
    steer,
    turn_the_data_sets,
    turn_the_fields,
    update,
)
from tests.flows.shared_runs import run_plainly

# Jobs that were really done, by stage; MANY where it depends on how many answers came out otherwise.
Done = dict[str, int]
MANY = -1


@pytest.fixture(scope="module")
def finished(
    llava_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    prefect_server: str,
    write_spec: Callable[..., Path],
) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    spec = write_spec(
        folder / "data",
        llava_folder,
        conditions=["query", "caption", "image", "noise"],
        target_states=["image"],
        interventions=[{"name": "CMRM", "alpha": 1.0}],
        # With this seed, one row more is no anchor more.
        anchors={"from": {"vlsafe": 0.4, "own": 0.4}, "seed": 2},
        batch_size=16,
        shard_size=64,
    )
    run_spec(read_spec(spec), store=str(folder / "store"))
    return folder


@pytest.fixture(scope="module", autouse=True)
def _lose_no_time(prefect_server: str) -> Iterator[None]:
    """Do without the report's figures, and without the second that Prefect waits for a flow's heartbeat to end."""
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        patch.setattr(report, "find_groups", lambda *_: {})
        yield


@pytest.fixture
def setting(finished: Path, llava_folder: Path, tmp_path: Path) -> Setting:
    folder = Path(shutil.copytree(finished, tmp_path / "copied"))
    return Setting(
        folder=folder, spec=folder / "data" / "spec.yaml", model=llava_folder, store=str(folder / "store")
    )


ANSWERED = {"generate": 2, "judge": 4, "report": 1}
ALL_OF_THE_MODEL = {"embed": 10, "shift": 1, "generate": 9, "judge": 18, "report": 1}
# The answers come out the same, and are judged already.
AS_BEFORE = {"embed": 10, "shift": 1, "generate": 9, "report": 1}
OTHER_SHIFT = {"shift": 1, "generate": 2, "judge": MANY, "report": 1}
REPORT = {"report": 1}
NOTHING: Done = {}
CHANGES: dict[str, tuple[Change, Done]] = {
    "nothing": (update(), NOTHING),
    # What is done to the states.
    "strength": (steer(alpha=0.5), ANSWERED),
    "strength written otherwise": (steer(alpha=1), NOTHING),
    "blocks": (steer(blocks="last"), ANSWERED),
    "scope": (steer(scope="prefill"), ANSWERED),
    "composition": (steer(composition="direct"), ANSWERED),
    "level": (steer(level="sample"), ANSWERED),
    "method": (steer(method="pca"), OTHER_SHIFT),
    "meaningless image of the shift": (steer(image="noise"), OTHER_SHIFT),
    "intervention renamed": (steer(name="ours"), ANSWERED),
    "intervention added": (
        update(interventions=[{"name": "CMRM", "alpha": 1.0}, {"name": "half", "alpha": 0.5}]),
        ANSWERED,
    ),
    "intervention removed": (update(interventions=[]), REPORT),
    # What is asked.
    "condition removed": (update(conditions=["query", "image"]), REPORT),
    "target states": (update(target_states=["query", "image"]), {"embed": 2, "report": 1}),
    # Of anchors under four conditions, of which the text has no image token, and of targets under one.
    "positions": (update(positions=["last", "mean_image"]), {"embed": 8, "report": 1}),
    "position of text": (update(positions=["last", "first_answer"]), {"embed": 10, "report": 1}),
    "usual position": (update(positions=["last"]), NOTHING),
    "question": (
        row("own.jsonl", 9, question="what colour is the square?"),
        {"ingest": 1, "embed": 1, "generate": 4, "judge": 8, "report": 1},
    ),
    "caption": (
        row("examine.jsonl", 13, caption="a bird"),
        {"ingest": 1, "generate": 1, "judge": 2, "report": 1},
    ),
    # No anchor shows it.
    "image": (repaint_an_image, {"ingest": 2, "embed": 2, "generate": 4, "judge": 8, "report": 1}),
    # Only one of the judges reads it.
    "reference": (row("own.jsonl", 9, reference="blue"), {"ingest": 1, "judge": 4, "report": 1}),
    "harmful": (
        lambda setting: setting.rewrite(lambda spec: spec["datasets"]["own"].update(harmful=True)),
        {"ingest": 1, "judge": 8, "report": 1},
    ),
    "row appended": (append_a_row, {"ingest": 1, "embed": 1, "generate": 4, "judge": 8, "report": 1}),
    # What a shard shows is named by its samples, whichever way round they come.
    "rows in another order": (reverse_the_rows, {"ingest": 1, "report": 1}),
    "file renamed": (rename_the_file, NOTHING),
    "data set added": (add_a_data_set, {"ingest": 1, "embed": 1, "generate": 4, "judge": 8, "report": 1}),
    # Rows carry the name, and Δ's key is made of those of its states: the other data set is steered anew too.
    "data set renamed": (
        rename_a_data_set,
        {"ingest": 1, "embed": 5, "shift": 1, "generate": 5, "judge": 8, "report": 1},
    ),
    "data sets in another order": (turn_the_data_sets, REPORT),
    # Who measures the shift.
    "anchor share": (
        update(anchors={"from": {"vlsafe": 0.4, "own": 0.6}}),
        {"ingest": 1, "embed": 5, "shift": 1, "generate": 5, "judge": 10, "report": 1},
    ),
    "anchor seed": (update(anchors={"seed": 1}), {"ingest": 2} | ALL_OF_THE_MODEL),
    # What answers.
    "template": (change_the_template, ALL_OF_THE_MODEL),
    "weights": (change_the_weights, ALL_OF_THE_MODEL),
    "model moved": (Setting.own_model, REPORT),
    "model's folder renamed": (lambda setting: setting.own_model("moon"), ALL_OF_THE_MODEL),
    "model renamed": (update(model={"name": "moon"}), ALL_OF_THE_MODEL),
    "dtype": (update(model={"dtype": "bfloat16"}), ALL_OF_THE_MODEL | {"judge": MANY}),
    "attention": (update(model={"attn_implementation": "eager"}), ALL_OF_THE_MODEL | {"judge": MANY}),
    "system line": (update(model={"system": "Be safe."}), ALL_OF_THE_MODEL),
    "bits of the weights": (
        update(model={"quantization": {"bits": 8}}),
        ALL_OF_THE_MODEL | {"judge": MANY},
    ),
    "adapter": (lay_an_adapter_over, ALL_OF_THE_MODEL | {"judge": MANY}),
    "row of the user's own": (
        update(model={"family": {"blocks": "layers", "image_token": "image_token_id"}}),
        AS_BEFORE,
    ),
    "trust in its code": (update(model={"trust_remote_code": True}), AS_BEFORE),
    "length of answers": (
        update(generation={"max_new_tokens": 5}),
        {"generate": 9, "judge": 18, "report": 1},
    ),
    "size of meaningless images": (
        update(images={"size": 40}),
        {"embed": 4, "shift": 1, "generate": 4, "judge": MANY, "report": 1},
    ),
    "colour of blank images": (update(images={"color": [0, 0, 0]}), OTHER_SHIFT | {"embed": 2}),
    "seed of noise images": (
        update(images={"seed": 1}),
        {"embed": 2, "generate": 2, "judge": 4, "report": 1},
    ),
    # How it is judged and told.
    "judge removed": (update(judges=["refusal"]), REPORT),
    "judge added": (update(judges=["refusal", "match", "overlap"]), {"judge": 9, "report": 1}),
    "title": (update(title="Another"), REPORT),
    "bound on utility": (update(choice={"utility_loss": 0.2}), REPORT),
    # How it is run.
    "batch size": (update(batch_size=3), NOTHING),
    "device": (update(model={"device": "auto"}), NOTHING),
    "device map": (update(model={"device": "auto", "device_map": "auto"}), NOTHING),
    "larger shards": (update(shard_size=1000), NOTHING),
    # A key names one shard's samples, so other shards are other keys; the anchors are one shard as before.
    "smaller shards": (update(shard_size=5), {"embed": 4, "generate": 18, "judge": 36, "report": 1}),
    "store spelled otherwise": (spell_the_store_otherwise, NOTHING),
    "order of the spec's fields": (turn_the_fields, NOTHING),
    "all moved": (move_everything, NOTHING),
}


@pytest.mark.parametrize(("change", "done"), CHANGES.values(), ids=CHANGES)
def test_a_change_does_again_exactly_what_depends_on_it(
    setting: Setting, commits: Counter[str], change: Change, done: Done
) -> None:
    change(setting)
    run_plainly(setting.spec, setting.store)
    compare(dict(commits), done)


@pytest.mark.parametrize(
    "name", ["nothing", "image", "judge added", "batch size", "dtype", "data set renamed"]
)
def test_under_prefect_a_change_does_the_same(setting: Setting, commits: Counter[str], name: str) -> None:
    change, done = CHANGES[name]
    change(setting)
    run_spec(read_spec(setting.spec), store=setting.store)
    compare(dict(commits), done)


def compare(counted: Done, done: Done) -> None:
    """Assert that those jobs were done which had to be."""
    if done.get("judge") == MANY:
        assert counted.pop("judge", 0) <= 2 * counted["generate"]
        done = {stage: count for stage, count in done.items() if stage != "judge"}
    assert counted == done


def test_a_judges_options_are_judged_anew_only_where_they_decide(
    setting: Setting, commits: Counter[str], users_judges: Path
) -> None:
    strict: dict[str, Any] = {"kind": "strict"}
    # One after the other, each on top of those before it.
    changes: list[tuple[dict[str, Any], Done]] = [
        ({}, {"judge": 9, "report": 1}),
        ({"lengths": [1, 2]}, {"judge": 9, "report": 1}),
        ({"price": {"prompt": 1.5, "completion": 2.0}}, REPORT),
        ({"batch_size": 2}, NOTHING),
        ({"name": "mild"}, {"judge": 9, "report": 1}),
    ]
    for options, done in changes:
        strict |= options
        update(judges=["refusal", "match", strict])(setting)
        commits.clear()
        run_plainly(setting.spec, setting.store)
        assert dict(commits) == done, options
