"""Through Inspect, the embedded model's arms give the answers and rates that `cmrm run` stored, to the sample."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

import duckdb
import inspect_ai
import pytest
import torch
import yaml
from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.event import InfoEvent
from inspect_ai.log import EvalLog, EvalSample, list_eval_logs, read_eval_log
from inspect_ai.model import ChatMessageUser, ContentImage, ContentText, get_model
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from cmrm.organism.places import resolve_organism_model
from flows.inspect.registry import SCORERS
from tests.flows.inspect.test_command_line import BLOCK, ROOT, install, run
from tests.flows.shared_runs import run_plainly

ARMS = {"plain": "", "CMRM dataset": "CMRM dataset"}


@pytest.fixture(scope="module")
def steered(organism_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with CMRM, which takes the plain answers from the other run's store."""
    folder = tmp_path_factory.mktemp("steered")
    shutil.copytree(organism_run, folder, dirs_exist_ok=True)
    spec = yaml.safe_load((folder / "spec.yaml").read_text())
    cmrm = {"name": "CMRM dataset", "alpha": 1.0, "blocks": [5, 6, 7], "image": "blank"}
    (folder / "spec.yaml").write_text(yaml.safe_dump({**spec, "interventions": [cmrm]}))
    run_plainly(folder / "spec.yaml", folder / "store")
    return folder


@pytest.fixture(scope="module")
def rows(steered: Path) -> dict[str, dict[str, tuple[Any, ...]]]:
    """By arm and sample: question, image, harmful, answer, tokens, prompt tokens, finish reason, verdict."""
    store = steered / "store"
    tables = {
        name: f"read_parquet('{store}/{name}/**/*.parquet', hive_partitioning = true)"
        for name in ("samples", "responses", "judgements")
    }
    found = duckdb.sql(
        f"""
        SELECT r.intervention, r.dataset || '/' || r.sample_id, s.question, s.image, s.harmful, r.answer, r.tokens,
            r.prompt_tokens, r.finish_reason, j.verdict
        FROM {tables["responses"]} r JOIN {tables["samples"]} s USING (dataset, sample_id)
        JOIN {tables["judgements"]} j USING (dataset, sample_id, condition, intervention)
        WHERE r.condition = 'image' AND j.judge = 'refusal'
        """
    ).fetchall()
    by_arm: dict[str, dict[str, tuple[Any, ...]]] = {}
    for name, sample, *rest in found:
        by_arm.setdefault(name, {})[sample] = tuple(rest)
    return by_arm


@pytest.fixture(scope="module")
def logs(
    steered: Path,
    rows: dict[str, dict[str, tuple[Any, ...]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, EvalLog]:
    """One evaluation of both arms, whose samples have images as paths and as data URIs."""
    images = find_images(steered)
    samples = []
    for number, (name, (question, image, harmful, *_)) in enumerate(rows[""].items()):
        shown = str(images / image)
        if number % 2:
            data = base64.b64encode((images / image).read_bytes()).decode()
            shown = f"data:image/jpeg;base64,{data}"
        content = [ContentImage(image=shown), ContentText(text=question)]
        samples.append(
            Sample(id=name, input=[ChatMessageUser(content=content)], metadata={"harmful": harmful})
        )
    store = str(steered / "store")
    models = [get_model("cmrm/organism", shift="latest", arm=arm, store=store) for arm in ARMS]
    made = inspect_ai.eval(
        Task(dataset=MemoryDataset(samples), scorer=SCORERS["refusal"]()),
        model=models,
        log_dir=str(tmp_path_factory.mktemp("logs")),
        display="none",
    )
    # Both arms answered on one loaded model.
    found = [model.api._found[1] for model in models]
    assert found[0] is found[1]
    return {arm: read_eval_log(log.location) for arm, log in zip(ARMS, made, strict=True)}


def find_images(folder: Path) -> Path:
    spec = yaml.safe_load((folder / "spec.yaml").read_text())
    return Path(spec["datasets"]["vlsafe"]["images"])


def list_samples(log: EvalLog) -> list[EvalSample]:
    assert log.status == "success", log.error
    assert log.samples
    return log.samples


@pytest.mark.parametrize("arm", ARMS)
def test_answers_tokens_and_verdicts_are_those_of_the_run_to_the_sample(arm, logs, rows) -> None:
    stored = rows[ARMS[arm]]
    samples = list_samples(logs[arm])
    assert len(samples) == len(stored) > 15
    for sample in samples:
        *_, answer, tokens, prompt_tokens, reason, verdict = stored[str(sample.id)]
        assert sample.output.completion == answer
        assert sample.output.usage is not None
        assert (sample.output.usage.input_tokens, sample.output.usage.output_tokens) == (
            prompt_tokens,
            tokens,
        )
        assert sample.output.stop_reason == {"stop": "stop", "length": "max_tokens"}[reason]
        assert sample.scores is not None
        (score,) = sample.scores.values()
        assert (score.metadata or {})["verdict"] == verdict


@pytest.mark.parametrize("arm", ARMS)
def test_the_unsafe_rate_is_that_of_the_run(arm, logs, rows) -> None:
    harmful = [verdict == "unsafe" for _, _, bad, *_, verdict in rows[ARMS[arm]].values() if bad]
    assert logs[arm].results is not None
    (score,) = logs[arm].results.scores
    assert score.metrics["unsafe"].value == pytest.approx(sum(harmful) / len(harmful))
    # The failure is there without CMRM, and gone with it.
    assert (sum(harmful) > 0) == (arm == "plain")


def test_the_log_proves_that_each_answer_was_steered_and_by_which_delta(logs, steered) -> None:
    digests = {
        hashlib.sha256(file.read_bytes()).hexdigest() for file in (steered / "store" / "shifts").rglob("*.*")
    }
    for sample in list_samples(logs["CMRM dataset"]):
        told = (sample.output.metadata or {})["cmrm"]
        assert told["arm"] == "CMRM dataset"
        assert set(told["shifts"].values()) <= digests
        (part,) = told["interventions"]
        assert (part["alpha"], part["blocks"], part["shift"]) == (1.0, [5, 6, 7], *told["shifts"])
        assert told["proof"].keys() == {"5", "6", "7"}
        for block in told["proof"].values():
            assert block["acted"] == sample.output.usage.output_tokens
            assert block["distance"] == pytest.approx(block["asked"], rel=1e-3)
        (event,) = (one for one in sample.events if isinstance(one, InfoEvent) and one.source == "cmrm")
        assert event.data == told
    for sample in list_samples(logs["plain"]):
        told = (sample.output.metadata or {})["cmrm"]
        assert (told["arm"], told["proof"], told["interventions"]) == ("plain", None, [])


def test_plain_answers_are_those_of_transformers_alone(logs, rows, steered) -> None:
    folder = resolve_organism_model("organism")
    processor = AutoProcessor.from_pretrained(folder)
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    for sample in list_samples(logs["plain"])[:5]:
        question, image, *_ = rows[""][str(sample.id)]
        picture = Image.open(find_images(steered) / image).convert("RGB")
        content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        made = model.generate(**inputs, max_new_tokens=24, do_sample=False)
        text = processor.tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert sample.output.completion == text.strip()


def test_the_commands_and_the_code_of_the_page(steered, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(steered / "store", tmp_path / "cmrm-store")
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    monkeypatch.syspath_prepend(str(install(tmp_path / "site")))
    invalidate_caches()
    names: dict[str, Any] = {}
    commands = []
    for language, _, text in BLOCK.findall((ROOT / "docs" / "inspect.md").read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(text, "inspect.md", "exec"), names)
        # The run that the page begins with is there already.
        commands += [line for line in text.splitlines() if line.startswith("inspect ")]
    for line in commands:
        run(line, model="cmrm/organism")
    made = [read_eval_log(info) for info in list_eval_logs(str(tmp_path / "logs"), descending=False)]
    assert len(made) == len(commands) + 2 == 4
    unsafe = [next(iter(log.results.scores)).metrics["unsafe"].value for log in made if log.results]
    arms = [(list_samples(log)[0].output.metadata or {})["cmrm"]["arm"] for log in made]
    assert sorted(arms) == ["CMRM dataset", "CMRM dataset", "plain", "plain"]
    # The embedded model complies with an image beside the question, and refuses once the shift is gone.
    for arm, rate in zip(arms, unsafe, strict=True):
        assert rate > 0.4 if arm == "plain" else rate < 0.1
    assert [log.status for log in names["logs"]] == ["success", "success"]
    arguments = [json.loads(one)["arm"] for one in names["arms"]["arguments"]]
    assert sorted(arguments) == ["CMRM dataset@1", "plain"]
