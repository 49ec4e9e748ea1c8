"""What can be changed between two runs: fields of a spec, rows of its data, its model, and where all of it lies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.lora import make_lora


@dataclass(kw_only=True)
class Setting:
    """A spec with its data, its model, and the store of a finished run; all of it may be changed."""

    folder: Path
    spec: Path
    model: Path
    store: str

    def rewrite(self, edit: Callable[[dict[str, Any]], Any]) -> None:
        content = yaml.safe_load(self.spec.read_text())
        edit(content)
        self.spec.write_text(yaml.safe_dump(content, sort_keys=False))

    def rewrite_rows(self, name: str, edit: Callable[[list[Any]], Any]) -> None:
        path = self.spec.parent / name
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        edit(rows)
        path.write_text("\n".join(map(json.dumps, rows)))

    def own_model(self, name: str = "") -> Path:
        """Move to a copy of the model, with equal bytes."""
        copy = self.folder / "models" / (name or self.model.name)
        shutil.copytree(self.model, copy)
        self.rewrite(lambda spec: spec["model"].update(id=str(copy)))
        return copy


Change = Callable[[Setting], Any]


def update(**fields: Any) -> Change:
    """Fields of the spec, or fields of its sections."""

    def change(setting: Setting) -> None:
        def edit(spec: dict[str, Any]) -> None:
            for name, value in fields.items():
                both = isinstance(value, dict) and isinstance(spec.get(name), dict)
                spec[name] = spec[name] | value if both else value

        setting.rewrite(edit)

    return change


def steer(**fields: Any) -> Change:
    """Fields of the one intervention."""
    return lambda setting: setting.rewrite(lambda spec: spec["interventions"][0].update(fields))


def row(name: str, number: int, **fields: Any) -> Change:
    """Fields of one row of a data set."""
    return lambda setting: setting.rewrite_rows(name, lambda rows: rows[number].update(fields))


def append_a_row(setting: Setting) -> None:
    more = {"id": "more", "question": "which colour has the last square?", "image": "0.png"}
    setting.rewrite_rows("own.jsonl", lambda rows: rows.append(more))


def reverse_the_rows(setting: Setting) -> None:
    setting.rewrite_rows("own.jsonl", list.reverse)


def repaint_an_image(setting: Setting) -> None:
    Image.new("RGB", (50, 30), (1, 2, 3)).save(setting.spec.parent / "images" / "3.png")


def rename_the_file(setting: Setting) -> None:
    (setting.spec.parent / "own.jsonl").rename(setting.spec.parent / "renamed.jsonl")
    setting.rewrite(lambda spec: spec["datasets"]["own"].update(path="renamed.jsonl"))


def add_a_data_set(setting: Setting) -> None:
    (setting.spec.parent / "new.jsonl").write_text('{"id": 0, "question": "who?", "image": "0.png"}\n')
    new = {"format": "jsonl", "path": "new.jsonl", "images": "images"}
    setting.rewrite(lambda spec: spec["datasets"].update(new=new))


def rename_a_data_set(setting: Setting) -> None:
    def edit(spec: dict[str, Any]) -> None:
        for section in (spec["datasets"], spec["anchors"]["from"]):
            section["mine"] = section.pop("own")

    setting.rewrite(edit)


def turn_the_data_sets(setting: Setting) -> None:
    setting.rewrite(lambda spec: spec.update(datasets=dict(reversed(spec["datasets"].items()))))


def turn_the_fields(setting: Setting) -> None:
    content = yaml.safe_load(setting.spec.read_text())
    content["model"] = dict(reversed(content["model"].items()))
    setting.spec.write_text(yaml.safe_dump(dict(reversed(content.items())), sort_keys=False))


def change_the_template(setting: Setting) -> None:
    path = setting.own_model() / "chat_template.jinja"
    path.write_text(path.read_text().replace("ASSISTANT:", "ANSWER:"))


def change_the_weights(setting: Setting) -> None:
    path = setting.own_model() / "model.safetensors"
    weights = load_file(path)
    for tensor in weights.values():
        tensor.mul_(1.01)
    save_file(weights, path, metadata={"format": "pt"})


def lay_an_adapter_over(setting: Setting) -> None:
    make_lora(setting.model, setting.spec.parent / "lora")
    setting.rewrite(lambda spec: spec["model"].update(adapter={"id": "lora"}))


def spell_the_store_otherwise(setting: Setting) -> None:
    setting.store = f"{setting.folder}/data/../store/"


def move_everything(setting: Setting) -> None:
    moved = setting.folder.with_name("moved")
    setting.folder.rename(moved)
    setting.spec = (moved / "data" / "spec.yaml").rename(moved / "data" / "other name.yaml")
    setting.store = str(moved / "store")
