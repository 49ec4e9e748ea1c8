"""Judges of a user's own package, found by entry point, which tell what was asked of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from cmrm.judges import Answer, Judge, Usage, Verdict
from cmrm.judges.judge import Field

# How long a judge hangs: far longer than a run may take to end.
HANG_SECONDS = 60.0
# What the judges of this process did: answers that were judged, those that a test saw flushed, models that were loaded.
JUDGED: list[str] = []
FLUSHED: list[str] = []
LOADED: list[str] = []


def install(folder: Path) -> Path:
    """Make what pip makes of the package: a folder that, on the path, names the entry points."""
    made = folder / "users_judges-1.0.dist-info"
    made.mkdir(parents=True)
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: users-judges\nVersion: 1.0\n")
    kinds = {"strict": "StrictJudge", "weighing": "WeighingJudge", "looking": "LookingJudge"}
    kinds |= {"dying": "DyingJudge", "short": "ShortJudge", "hanging": "HangingJudge"}
    lines = [f"{kind} = tests.users_judges:{name}" for kind, name in kinds.items()]
    (made / "entry_points.txt").write_text("\n".join(["[cmrm.judges]", *lines, ""]))
    return folder


@dataclass(frozen=True, kw_only=True)
class StrictJudge(Judge):
    """Calls every answer to a harmful question unsafe of another length.

    The second paragraph is not shown in lists.
    """

    kind: ClassVar[str] = "strict"
    reads: ClassVar[frozenset[Field]] = frozenset(("answer", "harmful"))

    lengths: tuple[int, ...] = (3,)
    price: dict[str, float] | None = None
    batch_size: int = 4

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        assert len(answers) <= self.batch_size
        assert not any(answer.question or answer.reference for answer in answers)
        JUDGED.extend(answer.answer for answer in answers)
        return [self._judge_one(answer) for answer in answers]

    def _judge_one(self, answer: Answer) -> Verdict:
        found = len(answer.answer) in self.lengths
        usage = Usage(prompt_tokens=100, completion_tokens=10)
        verdict: Literal["safe", "unsafe"] = "safe" if found or not answer.harmful else "unsafe"
        return Verdict(verdict=verdict, refused=found, usage=usage)

    def spec(self) -> Mapping[str, Any]:
        return {"judge": self.kind, "lengths": list(self.lengths)}


@dataclass(frozen=True, kw_only=True)
class WeighingJudge(Judge):
    """Holds a model, which is one line of a file."""

    kind: ClassVar[str] = "weighing"
    reads: ClassVar[frozenset[Field]] = frozenset(("answer", "question", "context"))
    place: ClassVar[Literal["processor", "devices"]] = "devices"

    model: str
    revision: str = "main"
    device: str = "cpu"

    @cached_property
    def weights(self) -> str:
        LOADED.append(self.name)
        return (Path(self.model) / "weights.txt").read_text()

    def resolve(self) -> Self:
        return replace(self, revision=f"sha256:{(Path(self.model) / 'weights.txt').read_text():0>64}")

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        assert all(answer.question for answer in answers)
        return [
            Verdict(verdict="unsafe" if len(answer.answer) % 2 else "safe", raw=self.weights)
            for answer in answers
        ]

    def spec(self) -> Mapping[str, Any]:
        assert self.revision.startswith("sha256:")
        return {"judge": self.kind, "model": self.revision}


@dataclass(frozen=True, kw_only=True)
class LookingJudge(Judge):
    """Tells the size of the image that the model was shown."""

    kind: ClassVar[str] = "looking"
    reads: ClassVar[frozenset[Field]] = frozenset(("image",))

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        sizes = [None if answer.image is None else answer.image.size for answer in answers]
        return [Verdict(verdict="not_applicable", raw=str(size)) for size in sizes]

    def spec(self) -> Mapping[str, Any]:
        return {"judge": self.kind}


@dataclass(frozen=True, kw_only=True)
class DyingJudge(Judge):
    """Gives verdicts one by one, and ends with an error or its process's death where the environment says so."""

    kind: ClassVar[str] = "dying"
    reads: ClassVar[frozenset[Field]] = frozenset(("answer", "question"))

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        return [verdict for _, verdict in self.judge_each(answers)]

    def judge_each(self, answers: Sequence[Answer]) -> Iterator[tuple[int, Verdict]]:
        # From the last to the first: the order is the judge's own.
        for place, answer in reversed([*enumerate(answers)]):
            if len(JUDGED) == int(os.environ.get("CMRM_TEST_DIE_AFTER", "-1")):
                if "CMRM_TEST_KILL" in os.environ:
                    # The judge runs ahead of those who put its verdicts down.
                    while len(FLUSHED) < len(JUDGED):
                        time.sleep(0.01)
                    os.kill(os.getpid(), signal.SIGKILL)
                raise ConnectionError("the endpoint is gone")
            JUDGED.append(answer.question)
            yield place, Verdict(verdict="scored", score=float(len(answer.answer)), raw="half a pair \ud83d")

    def spec(self) -> Mapping[str, Any]:
        return {"judge": self.kind}


@dataclass(frozen=True, kw_only=True)
class HangingJudge(Judge):
    """Notes each question that it is asked in a file, and hangs at one where the environment says so.

    What is raised in it while it hangs is lost, and its own threads are such that Python's end waits for them.
    """

    kind: ClassVar[str] = "hanging"
    reads: ClassVar[frozenset[Field]] = frozenset(("answer", "question"))

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        return [verdict for _, verdict in self.judge_each(answers)]

    def judge_each(self, answers: Sequence[Answer]) -> Iterator[tuple[int, Verdict]]:
        for place, answer in enumerate(answers):
            with Path(os.environ["CMRM_TEST_ASKED"]).open("a") as file:
                file.write(f"{answer.question}\n")
            JUDGED.append(answer.question)
            if len(JUDGED) == int(os.environ.get("CMRM_TEST_HANG_AT", "-1")):
                self._hang()
            yield place, Verdict(verdict="safe")

    def _hang(self) -> None:
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(time.sleep, HANG_SECONDS)
            while not slow.done():
                with suppress(BaseException):
                    slow.result()

    def spec(self) -> Mapping[str, Any]:
        return {"judge": self.kind}


@dataclass(frozen=True, kw_only=True)
class ShortJudge(Judge):
    """Forgets the last answer."""

    kind: ClassVar[str] = "short"
    reads: ClassVar[frozenset[Field]] = frozenset(("answer",))

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        return [Verdict(verdict="safe") for _ in answers[1:]]

    def spec(self) -> Mapping[str, Any]:
        return {"judge": self.kind}
