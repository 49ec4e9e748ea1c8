"""The model provider in Inspect: arguments and options honoured or refused, and answers as they were given."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import inspect_ai
import pytest
from inspect_ai import Task
from inspect_ai._cli.util import parse_cli_args
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentAudio,
    ContentImage,
    ContentText,
    GenerateConfig,
    Model,
    get_model,
)
from inspect_ai.scorer import includes
from inspect_ai.tool import ToolInfo
from PIL import Image
from rich.text import Text

from cmrm.errors import UserError
from flows.answering import engine as engines
from flows.answering.arguments import read_wish
from flows.answering.questions import ArmAnswer
from flows.inspect import provider, registry

ROOT = Path(__file__).parents[3]
# The arguments with which the small LLaVA is loaded as elsewhere in the tests.
LOADED = {"dtype": "float32", "device": "cpu"}


def make_uri(color: tuple[int, int, int] = (9, 90, 120)) -> str:
    file = BytesIO()
    Image.new("RGB", (40, 30), color).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def ask(model: Model, content: Any, **config: Any) -> Any:
    """Ask one question outside of an evaluation."""
    messages = content if isinstance(content, list) else [ChatMessageUser(content=content)]
    tools = config.pop("tools", [])
    cache = config.pop("cache", False)
    return asyncio.run(model.generate(messages, tools=tools, cache=cache, config=GenerateConfig(**config)))


def evaluate(
    models: Sequence[Model] | Model, samples: Sequence[Sample], folder: Path, **options: Any
) -> list[EvalLog]:
    task = Task(dataset=MemoryDataset(list(samples)), scorer=includes(), config=GenerateConfig(max_tokens=4))
    logs = inspect_ai.eval(task, model=models, log_dir=str(folder), display="none", **options)
    return [read_eval_log(log.location) for log in logs]


@pytest.fixture
def small(llava_folder: Path) -> Model:
    assert registry.provide_model  # Inspect knows the provider once it is imported
    return get_model(f"cmrm/{llava_folder}", **LOADED)


# Stands in for Inspect, whose import takes seconds: what is asked is what the registry imports besides.
WITHOUT_INSPECT = """
import sys
from importlib.machinery import ModuleSpec
from unittest.mock import MagicMock

class Stub:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "inspect_ai" else None
    def create_module(self, spec):
        return MagicMock(__path__=[], __spec__=spec)
    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Stub())
import {module}
assert not {"torch", "transformers", "duckdb", "prefect"} & sys.modules.keys()
"""


def test_the_entry_point_is_the_registry_and_imports_no_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module = project["entry-points"]["inspect_ai"]["cmrm"]
    assert module == registry.__name__
    code = WITHOUT_INSPECT.replace("{module}", module)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_nothing_is_read_or_loaded_before_the_first_question(monkeypatch: pytest.MonkeyPatch) -> None:
    # Inspect makes it without arguments where it wants to know a model's name.
    monkeypatch.setattr(provider.SteeredModelAPI, "_find", None)
    for name in ("organism", "/no/such/folder", "someone/nothing", "label-in-a-run"):
        assert get_model(f"cmrm/{name}", memoize=False).api.model_name == name
    get_model("cmrm/organism", memoize=False, shift="no-such-run", alpha=1)


@pytest.mark.parametrize("command", ["eval", "eval-retry", "eval-set"])
def test_a_command_line_that_evaluates_is_told_at_once_what_is_not_found(
    command: str, tmp_path: Path
) -> None:
    given = {"shift": "latest", "store": str(tmp_path / "[none]")}
    with click.Context(click.Command(command), info_name=command):
        # Inspect makes it without arguments, too, where a name may be one of a run.
        assert get_model("cmrm/label-in-a-run", memoize=False).api.model_name == "label-in-a-run"
        assert "/[none] has no finished run yet: make one with cmrm run" in print_refusal(**given)
        assert "no.yaml" in print_refusal(spec=str(tmp_path / "no.yaml"))
        for folder in (f"{tmp_path}/no-model", "./no-model", "../no-model"):
            with pytest.raises(PrerequisiteError, match="no-model"):
                get_model(f"cmrm/{folder}", memoize=False)
    # A log is scored wherever its run may be.
    with click.Context(click.Command("score"), info_name="score"):
        assert get_model("cmrm/organism", memoize=False, **given).api.model_name == "organism"


def test_equal_arguments_give_one_model_and_others_another(llava_folder: Path) -> None:
    name = f"cmrm/{llava_folder}"
    assert get_model(name, **LOADED) is get_model(name, **LOADED)
    assert get_model(name, shift="latest", alpha=1) is not get_model(name, shift="latest", alpha=0.5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"colour": "red"}, "-M colour: cmrm has no such argument; it has shift, spec, arm"),
        ({"alpha": 1}, "-M alpha: nothing is named that has arms"),
        ({"shift": "latest", "spec": "spec.yaml"}, "-M spec: a run or file of Δ is named by shift as well"),
        ({"shift": "latest", "alpha": "much"}, "-M alpha: .*much.* is no number"),
        ({"shift": "latest", "arm": True}, "-M arm: .* is no text"),
        ({"shift": "delta.safetensors", "alpha": 1, "arm": "CMRM"}, "-M arm: a file of Δ has no arms"),
        ({"shift": "latest", "revision": "main"}, "-M revision: a run or spec says it"),
        ({"base_url": "http://127.0.0.1"}, "model_base_url"),
    ],
)
def test_arguments_that_cannot_be_are_refused_at_once(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(PrerequisiteError, match=said):
        get_model("cmrm/organism", **arguments)


def print_refusal(**arguments: Any) -> str:
    """What Inspect's command line prints, as markup, of a model that is refused."""
    with pytest.raises(PrerequisiteError) as refusal:
        get_model("cmrm/organism", **arguments)
    return Text.from_markup(str(refusal.value.message)).plain


def test_brackets_in_a_refusal_are_printed_before_an_evaluation_and_logged_within_one(
    small: Model, tmp_path: Path
) -> None:
    assert "'[bold]much'" in print_refusal(shift="latest", alpha="[bold]much")
    assert "['[/red]']" in print_refusal(config=GenerateConfig(stop_seqs=["[/red]"]))
    (log,) = evaluate(small, [Sample(id=1, input="what is it?", target="")], tmp_path, stop_seqs=["[/red]"])
    assert log.error is not None
    assert log.error.message.startswith("stop_seqs is ['[/red]'], and")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("shift=20301130", "20301130"),
        ("arm=0.5", "0.5"),
        ("arm=CMRM, blocks 4–7", "CMRM, blocks 4–7"),
        ("arm=a,b", "a,b"),
    ],
)
def test_what_inspect_reads_as_a_list_or_number_is_the_text_that_was_given(given: str, read: str) -> None:
    wish = read_wish("organism", {"shift": "latest"} | parse_cli_args([given]), option="-M ")
    assert getattr(wish, given.partition("=")[0]) == read


@pytest.mark.parametrize(
    "given", ["blocks=5,6", "blocks=5, 6", "blocks=[5, 6]", "blocks=5", "blocks=upper_half"]
)
def test_blocks_are_numbers_or_a_name(given: str) -> None:
    arguments = parse_cli_args(["shift=d.safetensors", "alpha=1", "scope=all", given])
    wish = read_wish("organism", arguments, option="-M ")
    known = {"blocks=5": (5,), "blocks=upper_half": "upper_half"}
    assert (wish.alpha, wish.scope, wish.blocks) == (1.0, "all", known.get(given, (5, 6)))


@pytest.mark.parametrize(
    "option",
    [
        {"temperature": 0.7},
        {"top_p": 0.9},
        {"top_k": 5},
        {"seed": 1},
        {"num_choices": 2},
        {"best_of": 2},
        {"logprobs": True},
        {"top_logprobs": 2},
        {"prompt_logprobs": 1},
        {"stop_seqs": ["."]},
        {"frequency_penalty": 0.5},
        {"presence_penalty": 0.5},
        {"logit_bias": {1: 2.0}},
        {"reasoning_effort": "low"},
        {"reasoning_tokens": 5},
        {"effort": "low"},
        {"response_schema": {"name": "x", "json_schema": {"type": "object"}}},
        {"extra_body": {"min_p": 0.1}},
        {"modalities": ["image"]},
        {"batch": True},
    ],
    ids=lambda option: next(iter(option)),
)
def test_options_that_cannot_be_honoured_are_refused(small: Model, option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(PrerequisiteError, match=f"^{name} is .*the log would not be true"):
        ask(small, "what is it?", max_tokens=2, **option)
    with pytest.raises(PrerequisiteError, match=f"^{name} is "):
        get_model(str(small), config=GenerateConfig(**option))


def test_every_option_of_inspect_is_honoured_refused_or_without_effect_here() -> None:
    """An option that a later release adds is refused until somebody has looked at it."""
    from flows.inspect.options import GREEDY, HONOURED, WITHOUT_EFFECT, refuse_options

    known = set(GenerateConfig.model_fields)
    assert HONOURED | WITHOUT_EFFECT | GREEDY.keys() <= known
    assert not HONOURED & WITHOUT_EFFECT
    assert not GREEDY.keys() & (HONOURED | WITHOUT_EFFECT)

    class Later(GenerateConfig):
        sparkle: int | None = None

    refuse_options(Later())
    with pytest.raises(UserError, match="sparkle is 3, and cmrm decodes greedily"):
        refuse_options(Later(sparkle=3))


def test_options_that_say_what_greedy_decoding_does_are_taken(small: Model) -> None:
    taken = {
        "temperature": 0.0,
        "top_p": 1.0,
        "num_choices": 1,
        "stop_seqs": [],
        "max_retries": 3,
        "timeout": 60,
    }
    assert ask(small, "what is it?", max_tokens=2, **taken).usage.output_tokens == 2


def test_tools_are_refused(small: Model) -> None:
    with pytest.raises(PrerequisiteError, match="tools: cmrm's models answer and call no tools"):
        ask(small, "what is it?", tools=[ToolInfo(name="look", description="looks")])


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (
            [ChatMessageUser(content="a"), ChatMessageAssistant(content="b"), ChatMessageUser(content="c")],
            "the conversation has user, assistant, user",
        ),
        ([ChatMessageUser(content="a"), ChatMessageSystem(content="b")], "system message stands behind"),
        ([ChatMessageSystem(content="a")], "the conversation has none"),
        ([ChatMessageUser(content=[ContentImage(image=make_uri())] * 2)], "has 2 images"),
        (
            [
                ChatMessageUser(
                    content=[ContentText(text="a"), ContentImage(image=make_uri()), ContentText(text="b")]
                )
            ],
            "stands between two texts",
        ),
        (
            [ChatMessageUser(content=[ContentAudio(audio="data:audio/wav;base64,AAAA", format="wav")])],
            "content of type audio",
        ),
        (
            [ChatMessageUser(content=[ContentImage(image="data:image/png;base64,bm90IGFuIGltYWdl")])],
            "the image of the data URI cannot be read: it is of no known image format",
        ),
        ([ChatMessageUser(content="<image> what?")], "control token"),
    ],
    ids=["turns", "late-system", "no-user", "images", "between", "audio", "broken", "token"],
)
def test_what_a_model_is_not_asked_is_refused_with_what_to_do(
    small: Model, messages: list[ChatMessage], said: str
) -> None:
    with pytest.raises(PrerequisiteError, match=said):
        ask(small, messages, max_tokens=2)


@pytest.mark.parametrize("image", ["https://example.org/a.png", "file:///etc/passwd", "/etc/passwd"])
def test_a_provider_opens_no_path_and_no_address(small: Model, image: str) -> None:
    messages = [ChatMessageUser(content=[ContentImage(image=image)])]
    with pytest.raises(PrerequisiteError, match="is no data URI"):
        asyncio.run(small.api.generate(messages, [], "auto", GenerateConfig()))


def test_a_system_message_and_texts_around_are_what_the_template_makes_of_them(
    small: Model, llava_folder: Path
) -> None:
    import torch
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    picture, uri = Image.new("RGB", (40, 30), (9, 90, 120)), make_uri()
    parts = [ContentText(text="look:"), ContentText(text="what is it?"), ContentImage(image=uri)]
    asked = [ChatMessageSystem(content="be brief."), ChatMessageUser(content=parts)]
    found = ask(small, asked, max_tokens=5)
    processor = AutoProcessor.from_pretrained(llava_folder)
    model = LlavaForConditionalGeneration.from_pretrained(llava_folder, dtype=torch.float32).eval()
    turns = [
        {"role": "system", "content": [{"type": "text", "text": "be brief."}]},
        {
            "role": "user",
            "content": [
                {"type": "image", "image": picture},
                {"type": "text", "text": "look:\nwhat is it?"},
            ],
        },
    ]
    inputs = processor.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    read = inputs["input_ids"].shape[1]
    tokens = model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, read:]
    assert found.completion == processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert (found.usage.input_tokens, found.usage.output_tokens) == (read, 5)
    assert found.usage.total_tokens == read + 5
    assert found.stop_reason == "max_tokens"


def test_fewer_samples_than_adaptive_concurrency_begins_with_are_all_answered(
    small: Model, tmp_path: Path
) -> None:
    samples = [Sample(id=number, input=f"what is {number}?", target="x") for number in range(3)]
    (log,) = evaluate(small, samples, tmp_path, adaptive_connections=True)
    assert log.status == "success"
    assert [sample.output.usage.output_tokens for sample in log.samples or ()] == [4] * 3


def test_a_log_is_scored_again_without_any_model(
    small: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (log,) = evaluate(small, [Sample(id=1, input="what is it?", target="")], tmp_path)
    monkeypatch.setattr(provider.SteeredModelAPI, "_find", None)
    again = inspect_ai.score(log, includes(ignore_case=False), action="append", display="none")
    assert again.status == "success"
    assert log.eval.model_args == LOADED


def test_a_refusal_ends_an_evaluation_with_its_reason(small: Model, tmp_path: Path) -> None:
    (log,) = evaluate(small, [Sample(id=1, input="what is it?", target="")], tmp_path, temperature=0.5)
    assert log.status == "error"
    assert log.error is not None
    assert "temperature is 0.5, and cmrm decodes greedily" in log.error.message


def test_inspects_cache_of_answers_never_mixes_arms(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path))
    made: list[str] = []

    async def say(self: Any, **_: Any) -> Any:
        made.append(str(self._wish.system))
        return inspect_ai.model.ModelOutput.from_content(self.model_name, str(self._wish.system))

    monkeypatch.setattr(provider.SteeredModelAPI, "generate", say)
    models = [get_model(f"cmrm/{llava_folder}", memoize=False, system=line) for line in ("a", "b")]
    found = [ask(model, "what is it?", cache=True).completion for model in [*models, *models]]
    assert found == ["a", "b", "a", "b"]
    # The cache works within one model.
    assert made == ["a", "b"]


def test_a_hostile_answer_is_text_in_the_log(
    small: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = "<script>alert(1)</script>\x1b[31m\u202e {{ config }} attachment://x"
    answer = ArmAnswer(
        text=hostile, finish_reason="stop", tokens=3, prompt_tokens=2, all_tokens=3, all_prompt_tokens=2
    )
    monkeypatch.setattr(engines.Engine, "put", lambda _, question: question.end(answer))
    (log,) = evaluate(small, [Sample(id=1, input="what is it?", target="")], tmp_path)
    (sample,) = log.samples or ()
    assert sample.output.completion == hostile
    assert sample.output.stop_reason == "stop"


def test_other_event_loops_than_asyncio_work_too(small: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "sniffio", SimpleNamespace(current_async_library=lambda: "trio"))
    assert ask(small, "what is it?", max_tokens=2).usage.output_tokens == 2
