"""Inspect tasks for every data set format, `cmrm/vlsafe`, `cmrm/jsonl` and so on, by one function.

Imported whenever Inspect starts: what reads data is imported with the first task that is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from inspect_ai import Task, task

from cmrm.datasets.formats import list_formats
from flows.inspect.errors import telling_inspect
from flows.inspect.names import named_for_inspect

MakeTask = Callable[..., Task]


def _make_maker(form: str) -> MakeTask:
    def make(
        *,
        path: str | None = None,
        images: str | None = None,
        condition: str | None = None,
        judge: Any = None,
        by: str = "",
        anchors: float = 0.0,
        anchors_seed: int = 42,
        image_size: int | None = None,
        image_color: Sequence[int] = (255, 255, 255),
        image_seed: int = 0,
        **options: Any,
    ) -> Task:
        from flows.inspect.format_task import Request, make_task

        with telling_inspect():
            return make_task(
                Request(
                    form=form,
                    path=path,
                    images=images,
                    condition=condition,
                    judge=judge,
                    by=by,
                    anchors={"from": {form: anchors}, "seed": anchors_seed},
                    meaningless={"size": image_size, "color": list(image_color), "seed": image_seed},
                    options=options,
                )
            )

    make.__doc__ = f"""Ask the questions of a data set in the format {form!r}, as `cmrm run` does.

    Args:
        path: The data set's file or folder, or where its format says so the id of a data set.
        images: The folder of its images.
        condition: How a question is shown: query, caption, image, blank, noise, …; by default with its image, where
            the data set has images.
        judge: The judge, a list of judges, or mappings of a `kind` and its options; by default those that fit the
            format.
        by: A field of the samples' metadata, such as category, by whose values rates are given too.
        anchors: The share of samples that a run would measure the shift on, and that are left out.
        anchors_seed: The seed of that draw.
        image_size: The side of a meaningless image, in pixels.
        image_color: The colour of the blank one.
        image_seed: The seed of the noise.
        options: The format's own options, as in a spec.
    """
    return make


def _register(form: str) -> MakeTask:
    registered: MakeTask = task(name=form)(named_for_inspect(_make_maker(form), form))
    return registered


# By the name of the format, those of installed packages included.
TASKS: Mapping[str, MakeTask] = MappingProxyType({form: _register(form) for form in list_formats()})
