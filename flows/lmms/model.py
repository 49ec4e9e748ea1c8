"""The model `cmrm` of lmms-eval: a chat model that answers under an intervention, in batches by cmrm's engine."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger as eval_logger
from tqdm import tqdm  # type: ignore[import-untyped]

from cmrm.errors import UserError
from flows.answering.asking import ask
from flows.answering.engine import Engine, find_engine
from flows.answering.find import find_arm
from flows.lmms.arguments import read_arguments
from flows.lmms.generation import GenerationSettings, read_generation
from flows.lmms.messages import read_prompt
from flows.lmms.record import AnswerRecord, find_output_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lmms_eval.api.instance import Instance

    from flows.answering.questions import ArmAnswer

# Questions whose images are in memory at once: enough for the engine to fill a large batch twice over.
MOST_WAITING = 256


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A question of a task, not opened yet."""

    task: str
    split: str
    doc_id: int
    make_messages: Callable[[Any], Sequence[Any]]
    settings: GenerationSettings

    @property
    def where(self) -> str:
        return f"task {self.task}, question {self.doc_id}"


class SteeredModel(lmms):
    """Answers the tasks of lmms-eval under an intervention of cmrm, named by `--model_args`.

    Raises `UserError` for arguments, generation settings and questions that cannot be honoured: lmms-eval prints it.
    """

    is_simple = False

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self._arguments = read_arguments(given)
        self._arm = find_arm(self._arguments.wish)
        self._engine: Engine | None = find_engine(self._arm.model)
        self._record = AnswerRecord(arm=self._arm.describe(), arguments=given)

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answer questions, in their order; each text ends before the first of its task's stop strings."""
        self._refuse_several_processes()
        asked = [_read_request(one) for one in requests]
        began = time.monotonic()
        with tqdm(total=len(asked), desc=f"cmrm {self._arm.name}") as bar:
            results = []
            for one in self._answer(asked):
                results.append(one)
                bar.update()
        elapsed = time.monotonic() - began
        tokens = sum(one.token_counts.output_tokens for one in results)
        log_metrics(total_elapsed_time=elapsed, total_gen_tokens=tokens, avg_speed=tokens / elapsed)
        self._report(find_output_folder(requests))
        if self._record.unanswered and self._arguments.unanswered == "refuse":
            raise UserError(self._record.explain_unanswered())
        return results

    def loglikelihood(self, requests: Sequence[Instance]) -> NoReturn:
        """Refuse: the answers of a steered model are generated."""
        raise UserError(
            f"task {requests[0].task_name} scores given answers by their likelihood, which cmrm does not compute; "
            "choose a task with output_type: generate_until."
        )

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> NoReturn:
        """Refuse: a prompt of cmrm is one turn."""
        raise UserError(
            f"task {requests[0].task_name} has several rounds, and cmrm answers one; choose a task with output_type: "
            "generate_until."
        )

    @property
    def chat_template(self) -> NoReturn:
        """Refuse `--apply_chat_template`, which is about texts that chat models do not read."""
        raise UserError("--apply_chat_template: cmrm always applies the model's own template; leave it out.")

    def clean(self) -> None:
        """Free the model, before judges of a task load theirs; another question loads it again."""
        if not self._record.is_begun:
            eval_logger.warning(
                "cmrm was asked nothing: all answers are from lmms-eval's cache, which tells models apart by the text "
                "of --model_args, and not by what a run or file of Δ holds."
            )
        self._engine = None
        super().clean()

    def _answer(self, asked: Sequence[_Asked]) -> Iterator[GenerationResult]:
        engine = self._engine = self._engine or find_engine(self._arm.model)
        waiting: deque[tuple[_Asked, Future[ArmAnswer]]] = deque()
        try:
            for one in asked:
                if len(waiting) >= MOST_WAITING:
                    yield self._take(*waiting.popleft())
                waiting.append((one, self._ask(engine, one)))
            while waiting:
                yield self._take(*waiting.popleft())
        finally:
            for _, answer in waiting:
                answer.cancel()

    def _ask(self, engine: Engine, one: _Asked) -> Future[ArmAnswer]:
        prompt = read_prompt(
            one.make_messages(self.task_dict[one.task][one.split][one.doc_id]),
            layout=self._arguments.layout,
            system=self._arm.model.system,
            where=one.where,
        )
        return ask(engine, self._arm, prompt, max_new_tokens=one.settings.max_new_tokens)

    def _take(self, one: _Asked, future: Future[ArmAnswer]) -> GenerationResult:
        try:
            answer = future.result()
        except UserError as error:
            self._record.add_unanswered(one.where, str(error))
            return GenerationResult(text="", token_counts=TokenCounts(output_tokens=0))
        self._record.add(answer)
        counts = TokenCounts(input_tokens=answer.all_prompt_tokens, output_tokens=answer.all_tokens)
        return GenerationResult(text=one.settings.cut(answer.text), token_counts=counts)

    def _report(self, folder: Path | None) -> None:
        """Log what was done, once for all tasks, and write it beside the results."""
        eval_logger.info(f"cmrm: {json.dumps(self._record.sum_up(), ensure_ascii=False)}")
        if folder is not None:
            eval_logger.info(f"cmrm: the same is in {self._record.write(folder)}")

    def _refuse_several_processes(self) -> None:
        if self.world_size > 1:
            raise UserError(
                f"lmms-eval was started in {self.world_size} processes, and cmrm answers in one; start one, or share a "
                "task out by --offset and --limit."
            )


def _read_request(request: Instance) -> _Asked:
    """Read a request as lmms-eval's own chat models unpack it."""
    _context, make_messages, kwargs, doc_id, task, split = request.args
    settings = read_generation(kwargs, task=task)
    return _Asked(task=task, split=split, doc_id=doc_id, make_messages=make_messages, settings=settings)
