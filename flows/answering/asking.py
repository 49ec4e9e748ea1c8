"""Ask an arm a question: one generation, or the steps of a defence with several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count

from cmrm.errors import UserError
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.reasoning import find_final
from flows.answering.arm import AnsweringArm
from flows.answering.engine import Engine
from flows.answering.questions import ArmAnswer, Question, name_prompt
from tasks.states.steering import (
    ANSWER,
    PLAIN,
    DefenceUse,
    StepUse,
    is_stepped,
    list_steps,
    needs_plain,
)


def ask(
    engine: Engine, arm: AnsweringArm, prompt: Prompt, *, max_new_tokens: int | None = None
) -> Future[ArmAnswer]:
    """Ask an arm of an engine's model; the future has the answer, or `UserError` where the question has none.

    That is so for a text with a control token, a prompt that is too long, numbers that stop being finite, and memory
    that does not suffice for it alone. Raises `UserError` for a limit below 1.
    """
    limit = arm.max_new_tokens if max_new_tokens is None else max_new_tokens
    if limit < 1:
        raise UserError(f"max_new_tokens is {limit}; give 1 or more.")
    use = arm.use
    if isinstance(use, DefenceUse) and is_stepped(use):
        return _Steps(engine, arm, use, prompt, limit).begin()
    question = Question(arm=arm, prompt=prompt, limit=limit, id=name_prompt(prompt))
    engine.put(question)
    return question.answer


@dataclass(frozen=True, kw_only=True)
class _AskedStep(StepUse):
    """A step whose earlier answers are in memory, by question."""

    answers: Mapping[str, Mapping[str, str]] = field(hash=False, compare=False)

    def read_earlier(self, sample: str, _store: str) -> dict[str, str]:
        """The earlier answers to a question, by step."""
        return dict(self.answers[sample])


class _Steps:
    """One question to a defence with several generations: each step is asked when those before are answered."""

    _numbers = count()

    def __init__(
        self, engine: Engine, arm: AnsweringArm, use: DefenceUse, prompt: Prompt, limit: int
    ) -> None:
        self._engine, self._arm, self._use, self._prompt, self._limit = engine, arm, use, prompt, limit
        self._id = f"{name_prompt(prompt)}#{next(self._numbers)}"
        self._steps = [*((PLAIN,) if needs_plain(use) else ()), *list_steps(use)]
        self._given: dict[str, ArmAnswer] = {}
        self._answer: Future[ArmAnswer] = Future()

    def begin(self) -> Future[ArmAnswer]:
        """Ask the first step; the future has the last one's answer."""
        self._engine.earlier[self._id] = {}
        self._go_on()
        return self._answer

    def _go_on(self) -> None:
        """Ask the next step that is needed, or end with what stands."""
        earlier = self._engine.earlier[self._id]
        while self._steps:
            step = self._steps.pop(0)
            if step == PLAIN:
                plain = replace(self._arm, use=None, scene=None)
                self._put(step, plain, name_prompt(self._prompt))
                return
            use = self._make(step, tuple(earlier))
            if use.stepped.is_needed(step, earlier):
                self._put(step, replace(self._arm, use=use), self._id)
                return
            earlier[step] = ""
        self._end(self._given[ANSWER if ANSWER in self._given else PLAIN])

    def _make(self, step: str, earlier: tuple[str, ...]) -> _AskedStep:
        return _AskedStep(
            name=self._use.name if step == ANSWER else f"{self._use.name}: {step}",
            of=self._use,
            step=step,
            earlier=tuple((one, "") for one in earlier),
            answers=self._engine.earlier,
        )

    def _put(self, step: str, arm: AnsweringArm, name: str) -> None:
        question = Question(arm=arm, prompt=self._prompt, limit=self._limit, id=name)
        question.answer.add_done_callback(self._make_callback(step))
        self._engine.put(question)

    def _make_callback(self, step: str) -> Callable[[Future[ArmAnswer]], None]:
        def take(answer: Future[ArmAnswer]) -> None:
            if self._answer.cancelled():
                self._engine.earlier.pop(self._id, None)
                return
            try:
                self._take(step, answer.result())
            except BaseException as error:  # noqa: BLE001 - raised where the answer is awaited
                self._engine.earlier.pop(self._id, None)
                # Who asked may stop waiting at any moment.
                with suppress(InvalidStateError):
                    self._answer.set_exception(error)

        return take

    def _take(self, step: str, answer: ArmAnswer) -> None:
        self._given[step] = answer
        if step != ANSWER:
            text = find_final(answer.text, self._arm.model.reasoning)
            if text is None:
                raise UserError(
                    f"{self._use.kind} needs its {step} answer, and it is a reasoning trace alone; raise max_tokens."
                )
            self._engine.earlier[self._id][step] = text
        self._go_on()

    def _end(self, last: ArmAnswer) -> None:
        self._engine.earlier.pop(self._id, None)
        given = self._given.values()
        self._answer.set_result(
            replace(
                last,
                all_tokens=sum(one.tokens for one in given),
                all_prompt_tokens=sum(one.prompt_tokens for one in given),
                generations=len(self._given),
            )
        )
