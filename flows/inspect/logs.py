"""`cmrm export --to inspect`: a finished run as Inspect logs, one for each arm and data set, from the store alone."""

from __future__ import annotations

import re
from pathlib import Path

from inspect_ai.model import ModelUsage

from cmrm.new_folder import write_new_folder
from flows.inspect.log_file import LogFile
from flows.inspect.log_header import HeaderWriter
from flows.inspect.log_images import LogImages, measure_images
from flows.inspect.log_prompts import PromptWriter
from flows.inspect.log_samples import make_sample
from flows.inspect.log_scores import make_results
from flows.inspect.log_source import LogSource, RunSource, read_run
from flows.run_formats import RunExport, Say
from storage.store import Store
from tasks.report.outcomes import SampleInfo
from tasks.report.table import name_arm

# A browser loads a log sample by sample, so it is the disk and an upload that larger ones burden.
LARGE = 1_000_000_000
MOST_NAME = 80


def write_logs(asked: RunExport, say: Say) -> None:
    """Write the logs of a run to a new folder; memory is that of a shard and of one log's verdicts.

    Raises `UserError` or `StoreError` for what the user can fix; then nothing is left of the folder.
    """
    source = read_run(Store.open(asked.store), asked.run)
    images = None if asked.options.images == "none" else LogImages()
    if images is not None and (size := measure_images(source.logs, source.store)) > LARGE:
        say(f"The logs hold about {size / 1e9:.1f} GB of images; --images none leaves them out.")
    headers = HeaderWriter(source)
    prompts = PromptWriter(source.run.plan.spec, source.store, images)
    answered = failed = 0
    with write_new_folder(asked.output) as folder:
        for log in source.logs:
            done, errors = _write_log(source, log, headers, prompts, folder)
            answered += done
            failed += errors
    say(
        f"{len(source.logs):,} logs of run {source.run.record['run_id']}: {answered:,} answers, and {failed:,} samples "
        "without one, which have their reason as an error."
    )
    if images is not None and images.lost:
        say(
            f"{len(images.lost):,} images are gone by now, or are other files than were shown, and are left out."
        )
    say(f"inspect view --log-dir {asked.output}")


def _write_log(
    source: RunSource, log: LogSource, headers: HeaderWriter, prompts: PromptWriter, folder: Path
) -> tuple[int, int]:
    """Write one log; returns how many samples have an answer, and how many have none."""
    store, model = source.store, headers.name_model(log)
    samples = [
        SampleInfo(
            dataset=stored.sample.dataset,
            sample_id=stored.sample.id,
            harmful=stored.sample.harmful,
            split_by=stored.sample.question,
        )
        for stored in log.list_samples(store)
    ]
    asked = {one.sample_id for one in samples}
    # Judges of questions have also judged those that the condition cannot show.
    verdicts = [row for row in log.read_verdicts(store) if row["sample_id"] in asked]
    by_sample: dict[str, list[dict[str, object]]] = {}
    for row in verdicts:
        by_sample.setdefault(row["sample_id"], []).append(dict(row))
    unjudged = log.read_unjudged(store)
    usage = ModelUsage()
    done = 0
    with LogFile(folder / _name_file(log, headers), created=headers.created) as file:
        for one in log.read(store):
            sample = make_sample(
                one,
                prompts,
                model=model,
                verdicts=by_sample.get(one.stored.sample.id, ()),
                unjudged=unjudged.get(one.stored.sample.id, {}),
            )
            file.add(sample)
            done += one.answer is not None
            usage += sample.model_usage.get(model, ModelUsage())
        results = make_results(
            log.name.arm,
            samples,
            verdicts,
            judges=[judge.name for judge in source.run.plan.judges],
            completed=done,
        )
        ids = [one.sample_id for one in samples]
        file.finish(headers.write(log, ids=ids, results=results, usage=usage))
    return done, len(samples) - done


def _name_file(log: LogSource, headers: HeaderWriter) -> str:
    """Name a log's file as Inspect does, by time, task and id; the arm stands with the task."""
    named = f"{log.name.dataset}-{name_arm(log.name.arm)}".replace("α=", "alpha-")
    task = re.sub(r"[^A-Za-z0-9.]+", "-", named).strip("-.")
    stamp = f"{headers.created:%Y-%m-%dT%H-%M-%S}"
    return f"{stamp}_{task[:MOST_NAME]}_{headers.make_id(log, 'task')}.eval"
