"""Asks the model `cmrm` without an evaluation, in lmms-eval's environment, and prints what it says as JSON."""

from __future__ import annotations

import json
import sys

from lmms_eval.api.instance import Instance
from lmms_eval.models import get_model
from loguru import logger


def make_model(arguments="", **given):
    return get_model("cmrm").create_from_arg_string(
        f"pretrained=organism{arguments}", {"batch_size": 1, **given}
    )


def ask(model, docs, *, messages=None, **kwargs):
    """The answers to questions, with generation settings that may differ from one to the next."""
    model.task_dict["t"] = {"test": docs}
    settings = kwargs.pop("settings", [kwargs] * len(docs))
    return model.generate_until(
        [
            Instance(
                request_type="generate_until",
                arguments=(str(doc), messages or make_messages, own, number, "t", "test"),
                idx=0,
                metadata={"task": "t", "doc_id": number, "repeats": 1},
            )
            for number, (doc, own) in enumerate(zip(docs, settings, strict=True))
        ]
    )


def make_messages(doc):
    return [{"role": "user", "content": [{"type": "text", "text": doc}]}]


def show_video(_doc):
    return [{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}]


def refusal(work, *arguments, **given):
    try:
        work(*arguments, **given)
    except Exception as error:  # noqa: BLE001 - lmms-eval prints whatever it is
        return f"{type(error).__name__}: {error}"
    return "no refusal"


def main():
    questions, settings = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    warned = []
    logger.add(warned.append, level="WARNING")
    make_model().clean()
    said = {"cached": "".join(warned)}
    warned.clear()
    model = make_model()
    said["ordered"] = [one.text for one in ask(model, questions, settings=settings)]
    # As lmms-eval does before the judges of a task, and then asks a task of another kind.
    model.clean()
    said["not cached"] = "".join(warned)
    said["again"] = [one.text for one in ask(model, questions, settings=settings)]
    request = Instance(
        request_type="loglikelihood",
        arguments=("a", "b"),
        idx=0,
        metadata={"task": "t", "doc_id": 0, "repeats": 1},
    )
    said["loglikelihood"] = refusal(model.loglikelihood, [request])
    said["rounds"] = refusal(model.generate_until_multi_round, [request])
    said["chat template"] = refusal(lambda: model.chat_template)
    said["video"] = refusal(ask, model, questions, messages=show_video)
    said["sampling"] = refusal(ask, model, questions, temperature=0.7)
    marked = [questions[0], "what is <image> ?"]
    said["unanswered"] = refusal(ask, make_model(), marked, max_new_tokens=24)
    empty = make_model(",unanswered=empty")
    said["empty"] = [one.text for one in ask(empty, marked, max_new_tokens=24)]
    said["argument"] = refusal(make_model, ",strength=1")
    said["no run"] = refusal(make_model, ",shift=latest,alpha=1,store=nowhere")
    model._world_size = 2
    said["processes"] = refusal(ask, model, questions)
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main()
