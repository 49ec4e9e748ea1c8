"""Questions to arms of a loaded model: the right answers, in common batches, and whatever goes wrong is said."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from cmrm.decoding import api
from cmrm.decoding.requests import DecodeRequest
from cmrm.decoding.tree_decoder import TreeDecoder
from cmrm.errors import UserError
from cmrm.prompts.conditions import Prompt
from flows.answering import engine as engines
from flows.answering.arm import AnsweringArm
from flows.answering.asking import ask
from flows.answering.engine import Engine, find_engine
from flows.answering.find import ArmWish, find_arm
from tasks.states.steering import DefenceUse

SECONDS = 60


def make_picture(number: int = 0) -> Image.Image:
    return Image.linear_gradient("L").rotate(90 * number).resize((30, 24)).convert("RGB")


@pytest.fixture(scope="module")
def plain(llava_folder: Path) -> AnsweringArm:
    return find_arm(ArmWish(model=str(llava_folder), store="none", dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def shifted(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AnsweringArm:
    """The arm of a file of Δ that is large enough to change answers."""
    import cmrm

    file = tmp_path_factory.mktemp("shift") / "delta.safetensors"
    delta = torch.randn(2, 32, generator=torch.Generator().manual_seed(0)) * 50
    cmrm.save_shift(cmrm.Shift(delta=delta, blocks=(0, 1), count=1), file)
    wish = ArmWish(
        model=str(llava_folder), store="none", shift=str(file), alpha=1.0, dtype="float32", device="cpu"
    )
    return find_arm(wish)


@pytest.fixture
def engine(plain: AnsweringArm) -> Engine:
    return find_engine(plain.model)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Holds the loading of a model, so that all questions are there when it is loaded."""
    go, load = threading.Event(), engines.load_use

    def wait(use: Any) -> Any:
        assert go.wait(SECONDS)
        return load(use)

    monkeypatch.setattr(engines, "load_use", wait)
    yield go
    go.set()


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[DecodeRequest]:
    """The decode requests that the decoder was given."""
    seen: list[DecodeRequest] = []
    answer = api.answer

    def spy(vlm: Any, given: Any, **options: Any) -> Any:
        def watch() -> Iterator[DecodeRequest | None]:
            for one in given:
                if one is not None:
                    seen.append(one)
                yield one

        return answer(vlm, watch(), **options)

    monkeypatch.setattr(api, "answer", spy)
    return seen


def test_plain_answers_are_those_of_transformers(
    plain: AnsweringArm, engine: Engine, llava_folder: Path
) -> None:
    prompts = [
        Prompt(text="what is it?", image=make_picture()),
        Prompt(text="name every colour", image=make_picture(1), system="be brief."),
        Prompt(text="what is a wug?"),
    ]
    processor = AutoProcessor.from_pretrained(llava_folder)
    # Before the engine's thread loads one: of two loads that overlap, transformers leaves later models untied.
    model = LlavaForConditionalGeneration.from_pretrained(llava_folder, dtype=torch.float32).eval()
    asked = [ask(engine, plain, prompt, max_new_tokens=6) for prompt in prompts]
    for prompt, future in zip(prompts, asked, strict=True):
        parts: list[dict[str, Any]] = [{"type": "text", "text": prompt.text}]
        if prompt.image is not None:
            parts.insert(0, {"type": "image", "image": prompt.image})
        turns: list[dict[str, Any]] = [{"role": "user", "content": parts}]
        if prompt.system is not None:
            turns.insert(0, {"role": "system", "content": [{"type": "text", "text": prompt.system}]})
        inputs = processor.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        made = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        found = future.result(SECONDS)
        assert found.text == processor.tokenizer.decode(made, skip_special_tokens=True).strip()
        assert (found.tokens, found.prompt_tokens) == (len(made), inputs["input_ids"].shape[1])
        assert found.finish_reason == "length"


def test_arms_on_equal_files_share_the_weights_and_a_prompt_that_both_are_asked(
    plain: AnsweringArm,
    shifted: AnsweringArm,
    held: threading.Event,
    requests: list[DecodeRequest],
) -> None:
    engine = find_engine(plain.model)
    assert find_engine(shifted.model) is engine
    prompts = [Prompt(text=f"what is {number}?", image=make_picture(number)) for number in range(3)]
    asked = [ask(engine, arm, prompt, max_new_tokens=4) for arm in (plain, shifted) for prompt in prompts]
    held.set()
    answers = [future.result(SECONDS) for future in asked]
    assert [(len(one.prompts), len(one.arms)) for one in requests] == [(3, 2)]
    assert [one.proof is None for one in answers] == [True] * 3 + [False] * 3
    assert all(one.proof.acted == {0: 4, 1: 4} for one in answers[3:] if one.proof)
    assert all(before.text != after.text for before, after in zip(answers[:3], answers[3:], strict=True))


def test_a_question_joins_those_that_are_being_decoded(
    plain: AnsweringArm,
    engine: Engine,
    requests: list[DecodeRequest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, step = threading.Event(), TreeDecoder.step

    def watch(tree: TreeDecoder) -> None:
        begun.set()
        step(tree)

    monkeypatch.setattr(TreeDecoder, "step", watch)
    first = ask(engine, plain, Prompt(text="what is it?"), max_new_tokens=90)
    assert begun.wait(SECONDS)
    second = ask(engine, plain, Prompt(text="what else?"), max_new_tokens=90)
    # Had it waited for the first to end, the first would be done when the second begins.
    while len(requests) < 2:
        assert not first.done()
    assert {first.result(SECONDS).tokens, second.result(SECONDS).tokens} == {90}


def test_questions_of_other_limits_are_answered_too(plain: AnsweringArm, engine: Engine) -> None:
    asked = [
        ask(engine, plain, Prompt(text="what is it?"), max_new_tokens=limit) for limit in (3, 5, 3, 1, 5)
    ]
    assert [one.result(SECONDS).tokens for one in asked] == [3, 5, 3, 1, 5]


def test_a_batch_that_runs_out_of_memory_is_halved(
    plain: AnsweringArm, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    fail_above(2, tried, monkeypatch)
    engine = Engine(plain.model)
    asked = [ask(engine, plain, Prompt(text=f"what is {one}?"), max_new_tokens=2) for one in range(7)]
    held.set()
    assert [one.result(SECONDS).tokens for one in asked] == [2] * 7
    assert tried[1:] == [3, 1]


def test_a_question_for_which_memory_does_not_suffice_is_told_so(
    plain: AnsweringArm, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_above(0, [], monkeypatch)
    engine = Engine(plain.model)
    asked = [ask(engine, plain, Prompt(text=f"what is {one}?"), max_new_tokens=2) for one in range(3)]
    held.set()
    for one in asked:
        with pytest.raises(UserError, match="out of memory on a single question"):
            one.result(SECONDS)


def fail_above(rows: int, tried: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the decoder run out of memory where it is given more rows than so many."""
    answer = api.answer

    def spy(*given: Any, **options: Any) -> Any:
        tried.append(options["rows"])
        if options["rows"] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer(*given, **options)

    monkeypatch.setattr(api, "answer", spy)


def test_a_question_on_which_the_model_fails_is_told_apart(
    plain: AnsweringArm, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = api.answer

    def spy(vlm: Any, given: Any, **options: Any) -> Any:
        def watch() -> Iterator[DecodeRequest | None]:
            for one in given:
                if one is not None and any("poison" in prompt.text for prompt in one.prompts):
                    raise RuntimeError("device-side assert")
                yield one

        return answer(vlm, watch(), **options)

    monkeypatch.setattr(api, "answer", spy)
    engine = Engine(plain.model)
    texts = ["what is it?", "poison", "what else?"]
    asked = [ask(engine, plain, Prompt(text=text), max_new_tokens=2) for text in texts]
    held.set()
    with pytest.raises(RuntimeError, match="device-side assert"):
        asked[1].result(SECONDS)
    assert [asked[one].result(SECONDS).tokens for one in (0, 2)] == [2, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [("<image> what?", "control token"), ("word " * 3000, "positions")],
    ids=["control", "long"],
)
def test_what_the_model_cannot_be_given_is_refused_and_the_rest_answered(
    text: str, said: str, plain: AnsweringArm, engine: Engine
) -> None:
    asked = [ask(engine, plain, Prompt(text=one), max_new_tokens=2) for one in (text, "what is it?")]
    with pytest.raises(UserError, match=said):
        asked[0].result(SECONDS)
    assert asked[1].result(SECONDS).tokens == 2


def test_a_limit_below_one_is_refused(plain: AnsweringArm, engine: Engine) -> None:
    with pytest.raises(UserError, match="give 1 or more"):
        ask(engine, plain, Prompt(text="what is it?"), max_new_tokens=0)


def test_a_cancelled_question_is_not_decoded(
    plain: AnsweringArm, held: threading.Event, requests: list[DecodeRequest]
) -> None:
    engine = Engine(plain.model)
    asked = [ask(engine, plain, Prompt(text=text), max_new_tokens=2) for text in ("what?", "who?")]
    asked[0].cancel()
    held.set()
    assert asked[1].result(SECONDS).tokens == 2
    assert [prompt.text for one in requests for prompt in one.prompts] == ["who?"]
    with pytest.raises(CancelledError):
        asked[0].result(0)


def test_a_defence_whose_answer_nobody_waits_for_takes_no_further_step(
    plain: AnsweringArm,
    held: threading.Event,
    requests: list[DecodeRequest],
    caplog: pytest.LogCaptureFixture,
) -> None:
    texts = {"judge": "{question} {answer}?", "caption": "see? {question}", "final": "{caption} {question}"}
    stepped = replace(plain, use=DefenceUse(name="ECSO", kind="ecso", alpha=None, options=texts))
    engine = Engine(plain.model)
    pictured = [Prompt(text=text, image=make_picture()) for text in ("what?", "which?")]
    asked = ask(engine, stepped, pictured[0], max_new_tokens=2)
    assert asked.cancel()
    held.set()
    other = ask(engine, plain, Prompt(text="who?"), max_new_tokens=2)
    # Each step would be asked with the image, and before what comes later.
    assert other.result(SECONDS).tokens == 2
    assert ask(engine, plain, pictured[1], max_new_tokens=2).result(SECONDS).tokens == 2
    assert sorted(prompt.text for one in requests for prompt in one.prompts) == ["what?", "which?", "who?"]
    assert engine.earlier == {}
    assert "exception" not in caplog.text


def test_a_model_that_cannot_be_loaded_fails_each_question_and_is_tried_again(
    plain: AnsweringArm, monkeypatch: pytest.MonkeyPatch
) -> None:
    load: Callable[[Any], Any] = engines.load_use

    def refuse(_use: Any) -> Any:
        monkeypatch.setattr(engines, "load_use", load)
        raise UserError("model: no memory.")

    monkeypatch.setattr(engines, "load_use", refuse)
    engine = Engine(plain.model)
    with pytest.raises(UserError, match="no memory"):
        ask(engine, plain, Prompt(text="what is it?"), max_new_tokens=2).result(SECONDS)
    assert ask(engine, plain, Prompt(text="what is it?"), max_new_tokens=2).result(SECONDS).tokens == 2


def test_a_model_that_nobody_holds_is_freed_and_what_is_imported_is_in_no_collection_meanwhile(
    plain: AnsweringArm, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Inspect keeps the models that other tests asked for, and whoever runs the tests may exclude things, too.
    monkeypatch.setattr(engines, "_engines", weakref.WeakValueDictionary())
    excluded = [True]
    monkeypatch.setattr(engines, "import_for_good", lambda *_: excluded.pop())
    undone: list[bool] = []
    monkeypatch.setattr(engines.gc, "unfreeze", lambda: undone.append(True))
    engine = find_engine(replace(plain.model, dtype="bfloat16"))
    assert find_engine(plain.model) is not engine
    ask(engine, plain, Prompt(text="what is it?"), max_new_tokens=2).result(SECONDS)
    assert not undone
    gone = weakref.ref(engine)
    del engine
    for _ in range(100):
        gc.collect()
        if gone() is None:
            break
        threading.Event().wait(0.05)
    assert gone() is None
    assert undone == [True]
