"""The answers of several runs as one list: samples joined as comparisons join them, each arm beside the other runs'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from flows.compare.page.runs import PageRun
from flows.report.answers_page import Answered, AnsweredSample, Answers, limit_samples, read_answers
from storage.records.manifest import Manifest
from storage.shards.rows import iterate_all, need_manifest
from storage.store import Store
from tasks.compare.matching import match_arms
from tasks.compare.result import RunComparison
from tasks.compare.run_pairs import SAMPLE, make_side
from tasks.core.stage_name import ANSWERS, StageName
from tasks.report.model_names import shorten_models
from tasks.report.outcomes import Arm
from tasks.report.table import sort_arms

Place = tuple[str, str]
# Of what decides a verdict, and of the image: samples are joined where both are the same.
Digests = tuple[str, str | None]


@dataclass(frozen=True, kw_only=True)
class RunAnswers:
    """One run's answers; `models` maps its models to common names, `digests` are those of the samples it answered."""

    run: PageRun
    answers: Answers
    models: Mapping[str, str]
    digests: Mapping[Place, Digests]

    def name_arm(self, arm: Arm) -> Arm:
        """The arm by the common name of its model."""
        return arm._replace(model=self.models.get(arm.model, arm.model))


def read_run_answers(
    store: Store,
    runs: Sequence[PageRun],
    comparisons: Sequence[RunComparison],
    *,
    interventions: Sequence[str],
) -> list[RunAnswers]:
    """Read the answers of each run, of samples that changed sides first; raises `StoreError` if a file is missing."""
    flipped = _list_flipped(comparisons)
    return [
        RunAnswers(
            run=run,
            answers=read_answers(
                store, run.report.content["used"], interventions=interventions, first=flipped
            ),
            models=_match_models(runs[0], run),
            digests=_read_digests(store, run),
        )
        for run in runs
    ]


def join_answers(
    sides: Sequence[RunAnswers], comparisons: Sequence[RunComparison], *, interventions: Sequence[str]
) -> Answers:
    """Join the runs' answers by sample, those that changed sides first, with each arm beside the other runs'.

    The model of an arm is its run's letter, with its name where there are several. Samples of one id that differ
    between runs stand apart, with the letters after the id. The samples are at most as many as one run may show.
    """
    later = [side.run.letter for side in sides[1:]]
    flipped = {letter: _list_flipped([found]) for letter, found in zip(later, comparisons, strict=True)}
    arms, numbers = _join_arms(sides, interventions)
    joined: dict[tuple[Place, Digests], list[tuple[RunAnswers, AnsweredSample]]] = {}
    for side in sides:
        for asked in side.answers.samples:
            joined.setdefault((asked.key, side.digests[asked.key]), []).append((side, asked))
    variants = Counter(place for place, _ in joined)
    samples = []
    for (place, _), parts in joined.items():
        letters = [side.run.letter for side, _ in parts]
        shown = "" if variants[place] == 1 else f" ({', '.join(letters)})"
        first = parts[0][1]
        samples.append(
            replace(
                first,
                sample={**first.sample, "sample_id": f"{place[1]}{shown}"},
                answers=sorted(_renumber(parts, numbers), key=lambda one: one.arm),
                changed=any(asked.changed for _, asked in parts),
                # As it is in a run that no comparison pairs it with, it did not.
                flipped=any(
                    place in flipped[letter]
                    for letter in (later if sides[0].run.letter in letters else letters)
                ),
            )
        )
    samples.sort(key=lambda asked: not asked.flipped)
    total = len({(place, own) for side in sides for place, own in side.digests.items()})
    whole = Answers(
        arms=list(arms), samples=samples, total=total, references=_find_references(arms, sides[0])
    )
    return whole.draw(limit_samples(len(arms)))


def describe_lonely(sides: Sequence[RunAnswers]) -> list[str]:
    """Describe how many answered samples each later run shares with the first, and how many one alone has."""
    first, *later = sides
    lines = []
    for side in later:
        letters = first.run.letter, side.run.letter
        both = first.digests.keys() & side.digests.keys()
        same = sum(first.digests[place] == side.digests[place] for place in both)
        counts = {
            f"in {letters[0]} alone": len(first.digests) - len(both),
            f"in {letters[1]} alone": len(side.digests) - len(both),
            "with another question or image": len(both) - same,
        }
        said = [f"{count:,} {words}" for words, count in counts.items() if count]
        samples = "sample" if same == 1 else "samples"
        lines.append(
            f"{' and '.join(letters)} answered {', '.join([f'the same {same:,} {samples}', *said])}."
        )
    return lines


def _list_flipped(comparisons: Sequence[RunComparison]) -> set[Place]:
    return {(flip.dataset, flip.sample_id) for found in comparisons for flip in found.flips}


def _join_arms(
    sides: Sequence[RunAnswers], interventions: Sequence[str]
) -> tuple[dict[Arm, tuple[str, Arm]], Mapping[tuple[str, Arm], int]]:
    """Join the runs' arms.

    Returns the page's arms, each with its run's letter and the name that it has in common with other runs' arms, and
    their numbers by letter and the run's own arm.
    """
    found = [(side.name_arm(arm), side.run.letter, arm) for side in sides for arm in side.answers.arms]
    order = sort_arms(dict.fromkeys(common for common, _, _ in found), interventions)
    found.sort(key=lambda one: order.index(one[0]))
    models = shorten_models(list(dict.fromkeys(arm.model for arm in order)))
    arms = {
        common._replace(model=letter if len(models) == 1 else f"{letter}, {models[common.model]}"): (
            letter,
            common,
        )
        for common, letter, _ in found
    }
    return arms, {(letter, own): number for number, (_, letter, own) in enumerate(found)}


def _find_references(arms: Mapping[Arm, tuple[str, Arm]], first: RunAnswers) -> list[int | None]:
    """Find the number of the first run's arm of the same name, for each arm of another run."""
    letter = first.run.letter
    own = {common: number for number, (of, common) in enumerate(arms.values()) if of == letter}
    return [None if of == letter else own.get(common) for of, common in arms.values()]


def _renumber(
    parts: Sequence[tuple[RunAnswers, AnsweredSample]], numbers: Mapping[tuple[str, Arm], int]
) -> Iterator[Answered]:
    for side, asked in parts:
        for one in asked.answers:
            yield replace(one, arm=numbers[side.run.letter, side.answers.arms[one.arm]])


def _match_models(first: PageRun, run: PageRun) -> Mapping[str, str]:
    """Map a run's models to the names of those of the first that they are compared with."""
    if run is first:
        return {}
    before, after = match_arms([first.report, run.report])
    names = {label: name for name, label in before.items()}
    return {name: names[label] for name, label in after.items() if label in names}


def _read_digests(store: Store, run: PageRun) -> Mapping[Place, Digests]:
    responses = [made for stage in ANSWERS for made in _find(store, run, stage)]
    answered = {
        (row["dataset"], row["sample_id"])
        for row in iterate_all(store, responses, "responses", ("dataset", "sample_id"))
    }
    side = make_side(iterate_all(store, _find(store, run, StageName.INGEST), "samples", SAMPLE))
    found = zip(side.places, zip(side.texts, side.images, strict=True), strict=True)
    return {place: digests for place, digests in found if place in answered}


def _find(store: Store, run: PageRun, stage: StageName) -> list[Manifest]:
    return [need_manifest(store, stage, key) for key in run.report.content["used"].get(stage, ())]
