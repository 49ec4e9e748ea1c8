"""The Inspect model provider: `cmrm/organism`, `cmrm//a/folder` or a hub id, plain or in an arm of a run or spec."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
import click
import sniffio
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.log import transcript
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    StopReason,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from cmrm.errors import UserError
from flows.answering.arguments import read_wish
from flows.inspect.errors import telling_inspect
from flows.inspect.messages import read_messages
from flows.inspect.options import refuse_options, refuse_tools
from storage.errors import StoreError

if TYPE_CHECKING:
    from cmrm.steering.proof import SteeringProof
    from flows.answering.arm import AnsweringArm
    from flows.answering.engine import Engine
    from flows.answering.questions import ArmAnswer

# The name of what cmrm puts into an output's metadata and into the transcript.
SOURCE = "cmrm"
# Commands of Inspect that ask models; others, such as `score`, make a log's models anew, wherever its run may be.
ASKING = frozenset(("eval", "eval-retry", "eval-set"))
STOP_REASONS: dict[str, StopReason] = {"stop": "stop", "length": "max_tokens"}


class SteeredModelAPI(ModelAPI):
    """Answers in this process, greedily, under the arm that the arguments name.

    Inspect makes it where it only wants to know a model's name, and to score a log: the arm is found with the first
    question, and weights are loaded. A command line that evaluates finds it at once, so that a mistake costs a line and
    no sample. Raises `PrerequisiteError` for arguments and options that cannot be honoured, and for what is not found.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - as in the base class
        **model_args: Any,
    ) -> None:
        super().__init__(model_name=model_name, base_url=base_url, api_key=api_key, config=config)
        with telling_inspect():
            self._wish = read_wish(model_name, model_args, option="-M ")
            refuse_options(config)
            if base_url is not None:
                raise UserError("model_base_url: cmrm answers in this process; leave it out.")
        # Inspect's cache of answers tells models apart by their name and this, and not by their arguments.
        self.base_url = f"{SOURCE}:{uuid4().hex}"
        self._finding = threading.Lock()
        self._found: tuple[AnsweringArm, Engine] | None = None
        command = click.get_current_context(silent=True)
        # Without arguments it may be one that Inspect makes for a name alone, which only a run may know.
        is_path = model_name.startswith(("/", "./", "../"))
        told = bool(model_args) or (is_path and not Path(model_name).exists())
        if told and command is not None and command.info_name in ASKING:
            with telling_inspect():
                self._find()

    async def generate(
        self,
        input: list[ChatMessage],  # noqa: A002 - the name in the base class
        tools: list[ToolInfo],
        tool_choice: ToolChoice,  # noqa: ARG002 - there are no tools to choose from
        config: GenerateConfig,
    ) -> ModelOutput:
        """Answer a conversation of one user turn.

        Raises `PrerequisiteError` for what cannot be honoured or found, and for a question that has no answer.
        """
        began = time.monotonic()
        try:
            refuse_tools(tools)
            refuse_options(config)
            asked = read_messages(input)
            arm, engine = await self._open()
            system = arm.model.system
            prompt = (
                asked.open(system)
                if asked.image is None
                else await anyio.to_thread.run_sync(partial(asked.open, system))
            )
            from flows.answering.asking import ask

            answer = await _wait(ask(engine, arm, prompt, max_new_tokens=config.max_tokens))
        except (UserError, StoreError) as error:
            # What a sample fails with is text in the log, and no markup.
            raise PrerequisiteError(str(error)) from None
        record = describe_answer(arm, answer)
        transcript().info(record, source=SOURCE)
        return self._make_output(answer, record, seconds=time.monotonic() - began)

    async def _open(self) -> tuple[AnsweringArm, Engine]:
        # Looking for it reads files, and may download a model.
        return self._found if self._found is not None else await anyio.to_thread.run_sync(self._find)

    def close(self) -> None:
        """Let go of the model, which is freed with the last arm that it answers for."""
        self._found = None

    def collapse_user_messages(self) -> bool:
        """Whether consecutive user messages are one turn."""
        return True

    def collapse_system_messages(self) -> bool:
        """Whether consecutive system messages are one line."""
        return True

    def max_connections(self) -> int:
        """How many questions may wait at once where a number is fixed: enough for a batch."""
        return 100

    def _find(self) -> tuple[AnsweringArm, Engine]:
        """Find the arm and the engine of its model; the weights are loaded with the first question."""
        from flows.answering.engine import find_engine
        from flows.answering.find import find_arm

        with self._finding:
            if self._found is None:
                arm = find_arm(self._wish)
                self._found = arm, find_engine(arm.model)
            return self._found

    def _make_output(self, answer: ArmAnswer, record: dict[str, Any], *, seconds: float) -> ModelOutput:
        return ModelOutput(
            model=self.model_name,
            choices=[
                ChatCompletionChoice(
                    message=ChatMessageAssistant(
                        content=answer.text, model=self.model_name, source="generate"
                    ),
                    stop_reason=STOP_REASONS[answer.finish_reason],
                )
            ],
            usage=ModelUsage(
                input_tokens=answer.all_prompt_tokens,
                output_tokens=answer.all_tokens,
                total_tokens=answer.all_prompt_tokens + answer.all_tokens,
            ),
            time=seconds,
            metadata={SOURCE: record},
        )


def describe_answer(arm: AnsweringArm, answer: ArmAnswer) -> dict[str, Any]:
    """Describe how an answer came about, as JSON types: the arm, the proof of steering, and tokens."""
    return {
        **arm.describe(),
        "proof": None if answer.proof is None else _describe_proof(answer.proof),
        "generations": answer.generations,
        "tokens": answer.tokens,
        "prompt_tokens": answer.prompt_tokens,
    }


def _describe_proof(proof: SteeringProof) -> dict[str, dict[str, float]]:
    """By block: states that were steered, and of the last prompt token's what was subtracted and how far it moved."""
    return {
        str(block): {
            "acted": count,
            "asked": proof.asked.get(block, 0.0),
            "distance": proof.distance.get(block, 0.0),
            "unmoved": proof.unmoved.get(block, 0),
        }
        for block, count in proof.acted.items()
    }


async def _wait(answer: Future[ArmAnswer]) -> ArmAnswer:
    if sniffio.current_async_library() == "asyncio":
        return await asyncio.wrap_future(answer)
    return await anyio.to_thread.run_sync(answer.result, abandon_on_cancel=True)
