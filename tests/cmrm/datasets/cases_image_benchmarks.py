"""Fixtures of benchmarks of images with questions that `test_damaged_rows` damages, as a `conftest.Case` takes them."""

from __future__ import annotations

from typing import Any

CASES: list[dict[str, Any]] = [
    {
        "format": "vlsbench",
        "file": "vlsbench/data.json",
        "kind": "list",
        "question": ("instruction",),
        "id": ("instruction_id",),
        "image": ("image_path",),
    },
    *(
        {
            "format": "siuo",
            "file": f"siuo/{name}.json",
            "kind": "list",
            "question": ("question",),
            "id": ("question_id",),
            "image": ("image",),
        }
        for name in ("siuo_gen", "siuo_mcqa")
    ),
    {
        "format": "msts",
        "file": "msts/english_multimodal.csv",
        "kind": "csv",
        "question": ("prompt_text",),
        "id": ("prompt_id",),
        "image": ("unsafe_image_id",),
        "escape": "../secret",
    },
    {
        "format": "msts",
        "file": "msts/german_multimodal.csv",
        "kind": "csv",
        "question": ("prompt_text",),
        "id": ("case_id",),
        "image": ("unsafe_image_id",),
        "escape": "../secret",
    },
    {
        "format": "msts",
        "file": "msts/english_textonly.csv",
        "kind": "csv",
        "question": ("prompt_text",),
        "id": ("prompt_id",),
    },
    {
        "format": "mssbench",
        "file": "mssbench/combined.json",
        "kind": "sections",
        "question": ("queries", 0),
        "image": ("unsafe_image_path",),
        "escape": "../../secret.png",
    },
    {
        "format": "hades",
        "file": "hades/instructions/Animal.json",
        "kind": "list",
        "question": ("instruction",),
        "id": ("id",),
        "image": ("id",),
        "escape": "../../../secret",
    },
    {
        "format": "holisafe",
        "file": "holisafe/holisafe_bench.json",
        "kind": "list",
        "question": ("query",),
        "id": ("id",),
        "image": ("image",),
    },
    {
        "format": "jailbreakv-28k",
        "file": "jailbreakv_28k/mini_JailBreakV_28K.csv",
        "kind": "csv",
        "question": ("jailbreak_query",),
        "id": ("id",),
        "image": ("image_path",),
    },
    {
        "format": "jailbreakv-28k",
        "file": "jailbreakv_28k/RedTeam_2K.csv",
        "kind": "csv",
        "question": ("question",),
        "id": ("id",),
    },
]
