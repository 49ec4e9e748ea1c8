"""What an arm did in an evaluation, in a file beside lmms-eval's results, which have no place for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmrm.steering.proof import combine_proofs
from flows.lmms.arguments import WITHOUT_EFFECT
from storage.records.hashing import digest

if TYPE_CHECKING:
    from lmms_eval.api.instance import Instance

    from cmrm.steering.proof import SteeringProof
    from flows.answering.questions import ArmAnswer

MOST_SHOWN = 3


class AnswerRecord:
    """Counts answers and tokens, and keeps the proofs of steering and the questions without an answer."""

    def __init__(self, *, arm: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        self._arm = arm
        self._arguments = {name: str(one) for name, one in arguments.items() if name not in WITHOUT_EFFECT}
        self._answers, self._tokens, self._cut_short = 0, 0, 0
        self._proofs: list[SteeringProof] = []
        self.unanswered: list[Mapping[str, str]] = []

    @property
    def is_begun(self) -> bool:
        """Whether any question was asked."""
        return bool(self._answers or self.unanswered)

    def add(self, answer: ArmAnswer) -> None:
        """Count an answer."""
        self._answers += 1
        self._tokens += answer.all_tokens
        self._cut_short += answer.finish_reason == "length"
        if answer.proof is not None:
            self._proofs.append(answer.proof)

    def add_unanswered(self, where: str, reason: str) -> None:
        """Keep a question that the model could not be asked, or gave no answer to."""
        self.unanswered.append({"question": where, "reason": reason})

    def explain_unanswered(self) -> str:
        """Say which questions have no answer, and what to do."""
        shown = "; ".join(f"{one['question']}: {one['reason']}" for one in self.unanswered[:MOST_SHOWN])
        more = len(self.unanswered) - MOST_SHOWN
        return (
            f"{len(self.unanswered)} of {self._answers + len(self.unanswered)} questions have no answer ({shown}"
            f"{f'; and {more} more' if more > 0 else ''}). unanswered=empty among the model_args scores them as empty "
            "answers."
        )

    def sum_up(self) -> dict[str, Any]:
        """Sum up as JSON types: the arm with the digest of its Δ, the arguments, counts, and the proof of steering.

        The proof has by block how many states were moved, and the mean distance at the last prompt token.
        """
        blocks = sorted({block for proof in self._proofs for block in proof.acted})
        proof = combine_proofs(self._proofs, blocks)
        return {
            "lmms_eval": version("lmms-eval"),
            "arguments": self._arguments,
            **self._arm,
            "answers": self._answers,
            "tokens": self._tokens,
            "cut_at_max_new_tokens": self._cut_short,
            "steered_answers": len(self._proofs),
            "states_moved": {str(block): count for block, count in proof.acted.items()},
            "mean_distance": {str(block): round(distance, 6) for block, distance in proof.distance.items()},
            "states_unmoved": {str(block): count for block, count in proof.unmoved.items()},
            "unanswered": list(self.unanswered),
        }

    def write(self, folder: Path) -> Path:
        """Write the record into a folder, under a name that is the same for equal arms and arguments alone."""
        summed = self.sum_up()
        name = digest(
            {"arm": self._arm, "arguments": {key: str(one) for key, one in self._arguments.items()}}
        )
        path = folder / f"cmrm_{name[:12]}.json"
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(summed, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def find_output_folder(requests: Sequence[Instance]) -> Path | None:
    """Find where lmms-eval will write its results; None if it will not.

    A model is not told. A task is (`args`, for files of submissions), and makes its questions' messages itself.
    """
    for request in requests:
        task = getattr(request.args[1], "__self__", None)
        folder = getattr(getattr(task, "args", None), "output_path", None)
        if folder:
            return Path(folder)
    return None
