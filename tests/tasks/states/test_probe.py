"""Directions and probes from states in a store: shards, repeated questions, states missing under one condition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from cmrm.models.revision import ModelIdentity
from storage.records.hashing import digest
from storage.shards.hidden_states import hidden_states_table
from storage.shards.rows import need_manifest, read_rows
from storage.store import Store
from storage.tables.arrow import from_rows, table_path
from storage.tables.parquet import to_parquet
from tasks.core.models import ModelUse
from tasks.shards.samples import Shard
from tasks.states.direction import LabelledStates
from tasks.states.labelled_samples import Label, digest_splits, group_by_text
from tasks.states.probe import AnchorStates, ArmStates, ProbeJob, probe_states
from tests.made_up_pair import make_sample

COUNT, WIDTH, BLOCK = 24, 6, 2
DATASETS = {"bad": True, "good": False}
CHANCE = np.random.default_rng(4)
STATES = {
    (split, dataset, condition): CHANCE.normal(size=(COUNT, 1, WIDTH)) + (dataset == "bad")
    for split in ("anchor", "target")
    for dataset in DATASETS
    for condition in ("query", "image")
}
MODEL = ModelUse(
    identity=ModelIdentity(id="m", revision="sha256:1", model_type="llava", folder=Path("nowhere")),
    label="m",
    dtype="float32",
    device="cpu",
    attn_implementation="sdpa",
    system=None,
    image_backend="pillow 13.0.0",
)


def ask(split: str, dataset: str, number: int) -> str:
    return f"{split} {dataset} {number}?"


def commit(store: Store, stage: str, kind: str, table: Any, **partitions: str) -> str:
    key = digest([stage, table.to_pylist()])
    store.commit(stage, key, {table_path(kind, key, **partitions): to_parquet(table, kind)})
    return key


class Made:
    """A store of anchors and targets of two data sets, whose questions and groups a test may choose."""

    def __init__(self, store: Store, questions: dict[tuple[str, str, int], str], lost: set[int]) -> None:
        self.store, self.lost = store, lost
        self.ingests = {
            dataset: commit(
                store,
                "ingest",
                "samples",
                from_rows(
                    [
                        make_sample(
                            number,
                            dataset=dataset,
                            sample_id=f"{split}{number:02}",
                            split=split,
                            harmful=harmful,
                            question=questions.get((split, dataset, number), ask(split, dataset, number)),
                            split_by=f"image {split} {dataset} {number}",
                        )
                        for split in ("anchor", "target")
                        for number in range(COUNT)
                    ],
                    "samples",
                ),
            )
            for dataset, harmful in DATASETS.items()
        }

    def cut(self, split: Literal["anchor", "target"], size: int) -> list[tuple[Shard, dict[str, str]]]:
        found = []
        for dataset, ingest in self.ingests.items():
            for start in range(0, COUNT, size):
                stop = min(start + size, COUNT)
                shard = Shard(dataset=dataset, ingest=ingest, split=split, start=start, stop=stop)
                found.append((shard, {name: self.commit_states(shard, name) for name in ("query", "image")}))
        return found

    def commit_states(self, shard: Shard, condition: str) -> str:
        kept = [row for row in range(shard.start, shard.stop) if condition == "query" or row not in self.lost]
        table = hidden_states_table(
            model="m",
            dataset=shard.dataset,
            sample_ids=[f"{shard.split}{row:02}" for row in kept],
            condition=condition,
            blocks=[BLOCK],
            vectors=STATES[shard.split, shard.dataset, condition][kept].astype(np.float32),
        )
        return commit(self.store, "embed", "hidden_states", table, model="m", condition=condition)

    def probe(
        self, *, size: int = COUNT, targets: bool = True, reverse: bool = False
    ) -> list[dict[str, Any]]:
        anchors = [
            AnchorStates(states=keys, shard=shard, labels=digest_splits(self.store, shard))
            for shard, keys in self.cut("anchor", size)
        ]
        shards = tuple(
            LabelledStates(states=keys["image"], shard=shard, labels=digest_splits(self.store, shard))
            for shard, keys in self.cut("target", size)
        )
        job = ProbeJob(
            store=self.store.url,
            label="probe",
            rows=1,
            model=MODEL,
            condition="image",
            anchors=tuple(reversed(anchors)) if reverse else tuple(anchors),
            arms=(ArmStates(shards=shards),) if targets else (),
            images=(),
            apart=(),
        )
        probe_states.do(job)
        return read_rows(self.store, need_manifest(self.store, "probe", job.key), "directions").to_pylist()


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """The maker of such a store: `make(questions, lost)`."""
    return lambda questions=None, lost=(): Made(Store.create(tmp_path / "store"), questions or {}, {*lost})


def score(anchors: Sequence[tuple[str, int]]) -> float:
    """Scikit-learn's AUROC on all targets of a probe that was trained on these anchors, both under `image`."""
    states = np.array(
        [STATES["anchor", dataset, "image"][number, 0] for dataset, number in anchors], np.float32
    )
    labels = [DATASETS[dataset] for dataset, _ in anchors]
    scaler = StandardScaler().fit(states.astype(np.float64))
    probe = LogisticRegression(max_iter=10_000).fit(scaler.transform(states.astype(np.float64)), labels)
    tested = np.concatenate([STATES["target", dataset, "image"][:, 0] for dataset in DATASETS])
    scores = probe.decision_function(scaler.transform(tested.astype(np.float32).astype(np.float64)))
    return float(roc_auc_score(np.repeat([*DATASETS.values()], COUNT), scores))


def test_no_probe_is_trained_on_a_question_that_it_is_tested_on(make: Any) -> None:
    # Grouped by image, ten questions stand on both sides of the split, one in another case.
    asked = {("anchor", "good", number): ask("target", "good", number).upper() for number in range(10)}
    own, held_out = make(asked).probe()
    kept = [(name, number) for name in DATASETS for number in range(COUNT) if name == "bad" or number >= 10]
    everything = [(name, number) for name in DATASETS for number in range(COUNT)]
    assert held_out["trained"] == len(kept)
    assert held_out["auroc"] == pytest.approx(score(kept))
    assert held_out["auroc"] != pytest.approx(score(everything))
    # The direction itself is of all anchors.
    assert (own["harmful"], own["harmless"]) == (COUNT, COUNT)


def test_where_targets_ask_what_the_anchors_ask_there_is_no_probe_and_the_reason(make: Any) -> None:
    asked = {("anchor", "bad", number): ask("target", "good", 0) for number in range(COUNT - 2)}
    rows = make(asked).probe()
    reason = "2 harmful anchors whose question no target asks; a probe needs 5"
    assert [(row["auroc"], row["missing"]) for row in rows] == [(None, reason), (None, reason)]


def test_neither_shards_nor_the_order_of_data_sets_change_a_number(make: Any) -> None:
    made = make()
    whole = made.probe(targets=False)
    assert whole[0]["tested"] == "folds"
    assert made.probe(targets=False, size=10, reverse=True) == whole
    assert made.probe(size=10, reverse=True) == made.probe()


def test_samples_without_a_state_under_the_condition_are_left_out_there_alone(make: Any) -> None:
    own, _ = make(lost=range(4)).probe()
    assert (own["harmful"], own["harmless"]) == (COUNT - 4, COUNT - 4)
    means = {
        (name, condition): STATES["anchor", name, condition][(4 if condition == "image" else 0) :, 0].mean(
            axis=0
        )
        for name in DATASETS
        for condition in ("query", "image")
    }
    image, text = (means["bad", condition] - means["good", condition] for condition in ("image", "query"))
    assert own["norm"] == pytest.approx(np.linalg.norm(image), rel=1e-6)
    assert own["text_cosine"] == pytest.approx(
        image @ text / np.linalg.norm(image) / np.linalg.norm(text), rel=1e-5
    )


def test_samples_are_in_one_group_by_any_text_that_they_share() -> None:
    texts = ["ab", "cd", "eb", "ef", "gg"]
    groups = group_by_text([Label(harmful=True, texts=(one[:1].encode(), one[1:].encode())) for one in texts])
    # The first and the third share a question, the third and the fourth a group.
    assert groups[0] == groups[2] == groups[3]
    assert len(set(groups)) == 3
