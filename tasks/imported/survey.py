"""Which sample of a run each answer of a file belongs to, checked before any model is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from cmrm.errors import UserError
from cmrm.prompts.conditions import missing
from cmrm.untrusted.printable import show, show_names
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.imported.files import AnswersFile
from tasks.imported.given_answer import GivenAnswer
from tasks.shards.samples import iterate_samples

# How many answers a file may have: their ids are in memory.
MOST_ANSWERS = 10_000_000
# How many ids a message or a report names.
MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class DatasetIds:
    """The ids of one data set of a run: of its anchors, and of its targets by what they can be shown with."""

    anchors: AbstractSet[str]
    targets: AbstractSet[str]
    with_image: AbstractSet[str]
    with_caption: AbstractSet[str]

    def can_show(self, sample_id: str, condition: str) -> bool:
        """Whether a target can be shown under a condition, as a run shows it."""
        shown = {"image": self.with_image, "caption": self.with_caption}.get(condition, self.targets)
        return sample_id in shown


def list_ids(store: Store, ingested: Manifest, *, captioned: bool) -> DatasetIds:
    """List the ids of an ingested data set; `captioned` says that the run writes captions of its images."""
    targets, with_image, with_caption = set(), set(), set()
    for sample in (one.sample for one in iterate_samples(store, ingested, "target")):
        targets.add(sample.id)
        if missing(sample, "image") is None:
            with_image.add(sample.id)
        if missing(sample, "caption") is None or (captioned and sample.id in with_image):
            with_caption.add(sample.id)
    return DatasetIds(
        anchors={one.sample.id for one in iterate_samples(store, ingested, "anchor")},
        targets=targets,
        with_image=with_image,
        with_caption=with_caption,
    )


@dataclass(frozen=True, kw_only=True)
class SurveyedAnswers:
    """A file of answers, with the digest of its bytes and what became of each answer.

    `used` counts the answers to a run's targets by data set and condition. `anchors` counts those to anchors, which are
    never judged, and `unknown` those to no sample that the run asks under their condition, of which `named` are some.
    """

    file: AnswersFile
    digest: str
    made_by: Mapping[str, str]
    used: Mapping[tuple[str, str], int]
    anchors: int
    unknown: int
    named: Sequence[str] = field(default_factory=tuple)

    @property
    def conditions(self) -> list[str]:
        """The conditions of the answers that are used."""
        return list(dict.fromkeys(condition for _, condition in self.used))

    def describe(self) -> dict[str, Any]:
        """Describe the arm for reports, as JSON types."""
        return {
            "name": self.file.name,
            "file": self.file.shown,
            "digest": self.digest,
            "kind": self.file.kind,
            "made_by": dict(self.made_by),
            "answers": sum(self.used.values()) + self.anchors + self.unknown,
            "used": sum(self.used.values()),
            "anchors": self.anchors,
            "unknown": self.unknown,
            "named": list(self.named),
        }

    def explain_unknown(self) -> str:
        """Say which answers belong to no sample of the run; '' if all do."""
        if not self.unknown:
            return ""
        were = "answer belongs" if self.unknown == 1 else "answers belong"
        more = "" if self.unknown <= len(self.named) else ", …"
        return (
            f"{self.file.where}: {self.unknown} {were} to no sample that this run asks under "
            f"{'its' if self.unknown == 1 else 'their'} condition and {'is' if self.unknown == 1 else 'are'} left out "
            f"({', '.join(self.named)}{more})"
        )


def survey_answers(
    file: AnswersFile, ids: Mapping[str, DatasetIds], *, conditions: Sequence[str]
) -> SurveyedAnswers:
    """Read a file once and find the sample of each answer, by its data set and id.

    `ids` are those of the data sets that are judged; `conditions` are the run's. Raises `UserError`, with the line, for
    an answer under another condition, a second answer to one question, and an id that several data sets have; and if no
    answer belongs to a target.
    """
    # Before and after: a file that changes in between has neither's answers.
    digest = file.digest()
    seen: dict[tuple[str, str, str], str] = {}
    used: Counter[tuple[str, str]] = Counter()
    anchors = unknown = 0
    named: list[str] = []
    elsewhere: set[str] = set()
    for given in file.read():
        if len(seen) >= MOST_ANSWERS:
            raise UserError(f"{file.where}: has more than {MOST_ANSWERS:,} answers, the most that are read.")
        _refuse_condition(file, given, conditions)
        dataset = _find_dataset(file, given, ids)
        asked = (given.dataset or dataset or "", given.sample_id, given.condition)
        if (first := seen.get(asked)) is not None:
            raise UserError(
                f"{file.where}: {given.place}: a second answer to {show(given.sample_id, most=60)!r} under "
                f"{given.condition}; the first is {first}; keep one."
            )
        seen[asked] = given.place
        if dataset is not None and ids[dataset].can_show(given.sample_id, given.condition):
            used[dataset, given.condition] += 1
        elif dataset is not None and given.sample_id in ids[dataset].anchors:
            anchors += 1
        else:
            unknown += 1
            if given.dataset is not None and given.dataset not in ids and len(elsewhere) < MOST_NAMED:
                elsewhere.add(given.dataset)
            if len(named) < MOST_NAMED:
                named.append(show(given.sample_id, most=60))
    if file.digest() != digest:
        raise UserError(f"{file.where}: changed while it was read; wait until it is written, and run again.")
    if not used:
        raise UserError(_explain_no_use(file, ids, anchors=anchors, named=named, elsewhere=elsewhere))
    return SurveyedAnswers(
        file=file,
        digest=digest,
        made_by=file.describe(),
        used=dict(sorted(used.items())),
        anchors=anchors,
        unknown=unknown,
        named=tuple(named),
    )


def _refuse_condition(file: AnswersFile, given: GivenAnswer, conditions: Sequence[str]) -> None:
    if given.condition not in conditions:
        raise UserError(
            f"{file.where}: {given.place}: is an answer under {given.condition}, which is none of the run's conditions "
            f"({', '.join(conditions) or 'it has none'}), so nothing could be compared with it; add it to conditions, "
            "or say how the questions were asked (`condition`)."
        )


def _find_dataset(file: AnswersFile, given: GivenAnswer, ids: Mapping[str, DatasetIds]) -> str | None:
    """Find the data set that has an answer's sample, among those that are judged; None if none has."""
    wanted: Iterable[str] = ids if given.dataset is None else {given.dataset} & ids.keys()
    found = [
        name
        for name in wanted
        if given.sample_id in ids[name].targets or given.sample_id in ids[name].anchors
    ]
    if len(found) > 1:
        raise UserError(
            f"{file.where}: {given.place}: {show(given.sample_id, most=60)!r} is an id of {show_names(found)}; give "
            f"the rows a column dataset, or write `dataset: {show(found[0], most=60)}` if all are of one."
        )
    return found[0] if found else None


def _explain_no_use(
    file: AnswersFile,
    ids: Mapping[str, DatasetIds],
    *,
    anchors: int,
    named: Sequence[str],
    elsewhere: AbstractSet[str],
) -> str:
    if anchors:
        return (
            f"{file.where}: all of its answers that belong to this run are to anchors ({anchors}), which measure Δ and "
            "are never judged; give answers to targets."
        )
    if not named:
        return f"{file.where}: holds no answer; give one to each question."
    if elsewhere:
        return (
            f"{file.where}: its answers are to samples of {show_names(sorted(elsewhere))}, and the data sets of this "
            f"run are {show_names(ids)}; state the one of all rows (`dataset: {show(min(ids), most=60)}`), or name "
            "the column that has it (`columns: {dataset: NAME}`)."
        )
    own = min((one for some in ids.values() for one in some.targets), default="")
    return (
        f"{file.where}: none of its answers belongs to a sample of this run: it has ids such as {', '.join(named[:2])} "
        f"and the run such as {show(own, most=60)}; name the column with the samples' ids (`columns: {{id: NAME}}`)."
    )
