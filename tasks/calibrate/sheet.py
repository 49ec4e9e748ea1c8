"""A sheet of answers to label: a stratified random sample of a run's answers, in random order, under opaque ids."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cmrm.errors import UserError
from cmrm.untrusted.printable import show_value
from storage.records.hashing import digest
from tasks.calibrate.frame import Frame, JudgedAnswer
from tasks.report.outcomes import Arm

# Hexadecimal digits of an answer's id, after a letter: a spreadsheet would take 12e45 for a number.
ID_DIGITS = 16
SHEET_DIGITS = 8
# The stratum of answers that only other judges than the first could read.
UNREAD = "unread"
_NAME = re.compile(r"(?P<run>[0-9A-Za-z_-]+)\.n(?P<size>[0-9]{1,9})\.s(?P<seed>[0-9]{1,9})\.[0-9a-f]{8}")


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """Answers of one arm and data set that the first judge gave one verdict."""

    arm: Arm
    dataset: str
    verdict: str


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """One answer of a sheet: its id, which says nothing of its arm, and its stratum."""

    id: str
    answer: JudgedAnswer
    stratum: Stratum


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A drawn sheet: `name` says how to draw it again, `strata` counts the run's answers in each stratum."""

    name: str
    seed: int
    judge: str
    strata: Mapping[Stratum, int]
    rows: Sequence[SheetRow]

    @property
    def answers(self) -> int:
        """The number of the run's answers, drawn or not."""
        return sum(self.strata.values())


def draw_sheet(frame: Frame, *, size: int, seed: int) -> Sheet:
    """Draw a sheet: as many answers of each stratum as there are, up to an equal share of `size`.

    The same run, size and seed give the same sheet. Raises `UserError` if the strata outnumber `size`.
    """
    judge = frame.judges[0]
    strata = _stratify(frame)
    if size < len(strata):
        raise UserError(
            f"--size {size}: the run's answers form {len(strata)} strata (arm × data set × verdict of "
            f"{show_value(judge)}), and each needs an answer; give {len(strata)} or more, better {4 * len(strata)}"
        )
    counts = allocate([len(answers) for answers in strata.values()], size)
    rows = [
        SheetRow(id=name_answer(answer, frame.salt, seed), answer=answer, stratum=stratum)
        for (stratum, answers), count in zip(strata.items(), counts, strict=True)
        for answer in _draw(answers, frame.salt, seed)[:count]
    ]
    # Neither the id nor the place may follow the order of the draw, which begins each stratum anew.
    rows.sort(key=lambda row: _hash("order", row.answer, frame.salt, seed))
    summary = digest([[row.id for row in rows], judge])[:SHEET_DIGITS]
    return Sheet(
        name=f"{frame.run_id}.n{size}.s{seed}.{summary}",
        seed=seed,
        judge=judge,
        strata={stratum: len(answers) for stratum, answers in strata.items()},
        rows=rows,
    )


def parse_sheet_name(name: str) -> tuple[str, int, int] | None:
    """Read a sheet's name: the id of its run, its size and its seed; None for what is no such name."""
    found = _NAME.fullmatch(name)
    return None if found is None else (found["run"], int(found["size"]), int(found["seed"]))


def allocate(sizes: Sequence[int], total: int) -> list[int]:
    """Share out `total` equally, none of them more than its size; what small ones leave goes to the others."""
    shares = [0] * len(sizes)
    left = min(total, sum(sizes))
    order = sorted(range(len(sizes)), key=lambda place: sizes[place])
    for rank, place in enumerate(order):
        shares[place] = min(sizes[place], left // (len(order) - rank))
        left -= shares[place]
    return shares


def count_strata(frame: Frame) -> int:
    """Count the strata of a frame: the smallest size of a sheet."""
    return len(_stratify(frame))


def name_answer(answer: JudgedAnswer, salt: str, seed: int) -> str:
    """Name an answer by a hash that only who has the store can undo."""
    return f"a{_hash('id', answer, salt, seed)[:ID_DIGITS]}"


def _stratify(frame: Frame) -> dict[Stratum, list[JudgedAnswer]]:
    strata: dict[Stratum, list[JudgedAnswer]] = {}
    for answer in frame.answers:
        verdict = answer.verdicts.get(frame.judges[0], UNREAD)
        stratum = Stratum(arm=answer.arm, dataset=answer.dataset, verdict=verdict)
        strata.setdefault(stratum, []).append(answer)
    return strata


def _draw(answers: Sequence[JudgedAnswer], salt: str, seed: int) -> list[JudgedAnswer]:
    return sorted(answers, key=lambda answer: _hash("draw", answer, salt, seed))


def _hash(use: str, answer: JudgedAnswer, salt: str, seed: int) -> str:
    # Escaped, so that no name runs into the next, and half a surrogate pair can be encoded.
    parts = ascii((use, salt, seed, *answer.arm, *answer.question, answer.digest))
    return hashlib.sha256(parts.encode()).hexdigest()
