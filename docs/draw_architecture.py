"""Draw `docs/architecture.svg`, the folders and their imports, and print how large each folder is.

    python docs/draw_architecture.py           # writes docs/architecture.svg, prints modules and lines of each folder

Imports are read from the code by grimp; layers are those of import-linter's contracts in `pyproject.toml`. No number
stands in the picture, so that it changes only when a folder or an arrow does.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from html import escape
from itertools import pairwise
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"
PACKAGES = ("flows", "tasks", "cmrm", "storage")

WIDTH, MARGIN, PITCH = 1000, 12, 84
HEADER, BOX, PASSAGE = 58, 54, 8
# The panels on the left have up to four boxes in a row, those on the right three.
LEFT, RIGHT = 570, 394
# Of a character's height, rather more than the usual sans-serif fonts take, so that no text leaves its box.
ADVANCE = 0.6
NAME, PHRASE = 13.0, 10.5
COLOURS = {
    "flows": ("#eef2ff", "#4338ca"),
    "tasks": ("#ecfdf5", "#047857"),
    "cmrm": ("#fff7ed", "#c2410c"),
    "storage": ("#f0f9ff", "#0369a1"),
}

# A folder or a file that lies beside the folders, such as `cmrm.models` or `flows.run`.
Folder = str
# Which folders each folder imports.
Imports = Mapping[Folder, frozenset[Folder]]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a box stands: its left upper corner and its width, in pixels."""

    x: float
    y: float
    width: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Where a package is drawn."""

    x: float
    y: float
    width: float
    height: float


def read_imports() -> Imports:
    """Read which folders import which, over all four packages."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    found: dict[Folder, set[Folder]] = defaultdict(set)
    for module in graph.modules - set(PACKAGES):
        found[name_folder(module)].update(
            name_folder(imported)
            for imported in graph.find_modules_directly_imported_by(module)
            if imported not in PACKAGES and name_folder(imported) != name_folder(module)
        )
    return {folder: frozenset(imported) for folder, imported in sorted(found.items())}


def name_folder(module: str) -> Folder:
    """Name the folder of a module by its first two parts."""
    return ".".join(module.split(".")[:2])


def read_layers() -> dict[str, list[list[Folder]]]:
    """Read the layers of each package, the highest first, from import-linter's contracts."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    found: dict[str, list[list[Folder]]] = {}
    for contract in settings["contracts"]:
        if contract["type"] == "layers":
            layers = [sorted(part.strip() for part in layer.split("|")) for layer in contract["layers"]]
            package = layers[0][0].partition(".")[0]
            if "." in layers[0][0]:
                found[package] = layers
    return found


def list_modules(folder: Folder) -> list[Path]:
    """List the files of a folder, or the one file that is named like a folder."""
    path = ROOT.joinpath(*folder.split("."))
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def read_sentence(folder: Folder) -> str:
    """Read the first sentence of a folder's docstring; '' where it has none."""
    path = ROOT.joinpath(*folder.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    first, stop, _ = " ".join(docstring.split()).partition(". ")
    return first + stop.strip()


def refuse_cycles(imports: Imports) -> None:
    """Raise `graphlib.CycleError`, which names the folders, where folders import each other in a circle."""
    TopologicalSorter(imports).prepare()


def leave_out_implied(imports: Imports) -> dict[Folder, frozenset[Folder]]:
    """Leave out each import that a longer path implies: what is left shows the same order with fewer arrows."""
    reached: dict[Folder, set[Folder]] = {}
    for folder in TopologicalSorter(imports).static_order():
        direct = imports.get(folder, frozenset())
        reached[folder] = set(direct).union(*(reached[one] for one in direct))
    return {
        folder: frozenset(
            one for one in direct if not any(one in reached[other] for other in direct if other != one)
        )
        for folder, direct in imports.items()
    }


def draw() -> str:
    """Draw the picture as SVG."""
    imports, layers = read_imports(), read_layers()
    refuse_cycles(imports)
    rows = {package: len(found) for package, found in layers.items()}
    upper = HEADER + PITCH * max(rows["flows"], rows["tasks"])
    lower = HEADER + PITCH * max(rows["cmrm"], rows["storage"])
    right = WIDTH - MARGIN - RIGHT
    second = MARGIN + upper + 36
    panels = {
        "flows": Panel(x=MARGIN, y=MARGIN, width=LEFT, height=upper),
        "tasks": Panel(x=right, y=MARGIN, width=RIGHT, height=upper),
        "cmrm": Panel(x=MARGIN, y=second, width=LEFT, height=lower),
        "storage": Panel(x=right, y=second, width=RIGHT, height=lower),
    }
    height = second + lower + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif" role="img" '
        'aria-label="The folders of cmrm and what each imports">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0.8L7.5 4L0 7.2z" fill="#64748b"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        *_draw_package_arrows(panels),
    ]
    for package, panel in panels.items():
        parts += _draw_package(package, layers[package], imports, panel)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _draw_package_arrows(panels: Mapping[str, Panel]) -> list[str]:
    """Between the panels: flows import tasks, and both import what lies below them."""
    flows, tasks, cmrm, storage = (panels[name] for name in ("flows", "tasks", "cmrm", "storage"))
    across = flows.y + 22
    lines = [f"M{flows.x + flows.width} {across}L{tasks.x - 2} {across}"]
    for upper, start, lower, end in (
        (flows, 0.5, cmrm, 0.5),
        (flows, 0.9, storage, 0.1),
        (tasks, 0.1, cmrm, 0.9),
        (tasks, 0.5, storage, 0.5),
    ):
        lines.append(
            f"M{upper.x + start * upper.width:g} {upper.y + upper.height}"
            f"L{lower.x + end * lower.width:g} {lower.y - 2}"
        )
    return [
        f'<path d="{line}" fill="none" stroke="#64748b" stroke-width="2" marker-end="url(#tip)"/>'
        for line in lines
    ]


def _draw_package(
    package: str, layers: Sequence[Sequence[Folder]], imports: Imports, panel: Panel
) -> list[str]:
    x, y = panel.x, panel.y
    fill, ink = COLOURS[package]
    inside = {
        folder: frozenset(one for one in imports.get(folder, ()) if one.startswith(f"{package}."))
        for layer in layers
        for folder in layer
    }
    arrows = [(folder, one) for folder, direct in leave_out_implied(inside).items() for one in sorted(direct)]
    parts = [
        f'<rect x="{x}" y="{y}" width="{panel.width}" height="{panel.height}" rx="10" fill="{fill}"/>',
        f'<text x="{x + 14}" y="{y + 26}" font-size="17" font-weight="700" fill="{ink}">{package}/</text>',
        f'<text x="{x + 14}" y="{y + 44}" font-size="11" fill="#334155">'
        f"{escape(_shorten(read_sentence(package), panel.width - 28, 11))}</text>",
    ]
    paths, places = arrange(layers, arrows, width=panel.width)
    parts += [
        f'<path d="{_bend([(x + dx, y + HEADER + dy) for dx, dy in path])}" fill="none" stroke="#64748b" '
        'stroke-width="1.2" marker-end="url(#tip)"/>'
        for path in paths
    ]
    for folder, place in places.items():
        parts += _draw_box(folder, x + place.x, y + HEADER + place.y, place.width, ink)
    return parts


def _draw_box(folder: Folder, x: float, y: float, width: float, ink: str) -> list[str]:
    name = folder.partition(".")[2]
    label = f"{name}/" if ROOT.joinpath(*folder.split(".")).is_dir() else f"{name}.py"
    parts = [
        f'<g><title>{escape(read_sentence(folder))}</title><rect x="{x:g}" y="{y:g}" width="{width:g}" '
        f'height="{BOX}" rx="6" fill="#ffffff" stroke="{ink}"/>',
        f'<text x="{x + 8:g}" y="{y + 18:g}" font-size="{NAME:g}" font-weight="600" fill="#0f172a">{label}</text>',
    ]
    for number, line in enumerate(_wrap(read_sentence(folder), width - 14, PHRASE)):
        parts.append(
            f'<text x="{x + 8:g}" y="{y + 32 + 13 * number:g}" font-size="{PHRASE:g}" fill="#475569">'
            f"{escape(line)}</text>"
        )
    return [*parts, "</g>"]


def arrange(
    layers: Sequence[Sequence[Folder]], arrows: Sequence[tuple[Folder, Folder]], *, width: float
) -> tuple[list[list[tuple[float, float]]], dict[Folder, Place]]:
    """Arrange a panel: the points of each arrow, and the place of each box, from the panel's left upper corner.

    An arrow over several layers passes between the boxes of those that it crosses: it has a narrow passage in each.
    """
    level = {folder: number for number, layer in enumerate(layers) for folder in layer}
    rows: list[list[str]] = [list(layer) for layer in layers]
    chains: list[list[str]] = []
    for start, end in arrows:
        passages = [f"{start}>{end}>{number}" for number in range(level[start] + 1, level[end])]
        for passage in passages:
            level[passage] = int(passage.rpartition(">")[2])
            rows[level[passage]].append(passage)
        chains.append([start, *passages, end])
    _order(rows, [pair for chain in chains for pair in pairwise(chain)])
    places = {name: place for number, row in enumerate(rows) for name, place in _space(row, number, width)}
    paths = []
    for chain in chains:
        first, last = places[chain[0]], places[chain[-1]]
        path = [(first.middle, first.y + BOX)]
        for passage in chain[1:-1]:
            path += [
                (places[passage].middle, places[passage].y),
                (places[passage].middle, places[passage].y + BOX),
            ]
        paths.append([*path, (last.middle, last.y - 1)])
    return paths, {name: place for name, place in places.items() if ">" not in name}


def _order(rows: list[list[str]], links: Sequence[tuple[str, str]]) -> None:
    """Order each row by where the neighbours of its members stand, down and up again, so that few arrows cross."""
    near: dict[str, list[str]] = defaultdict(list)
    for one, other in links:
        near[one].append(other)
        near[other].append(one)
    for _ in range(12):
        for numbers in (range(len(rows)), reversed(range(len(rows)))):
            for number in numbers:
                at = {name: (k + 0.5) / len(row) for row in rows for k, name in enumerate(row)}
                means = {
                    name: sum(at[one] for one in near[name]) / len(near[name]) if near[name] else at[name]
                    for name in rows[number]
                }
                rows[number].sort(key=lambda name, means=means: (means[name], name))


def _space(row: Sequence[str], number: int, panel: float) -> list[tuple[str, Place]]:
    """Share a row's width among its boxes, equally wide, with its passages between them."""
    boxes = sum(">" not in name for name in row)
    gap, room = 10.0, panel - 2 * MARGIN
    width = min((room - gap * (len(row) - 1) - PASSAGE * (len(row) - boxes)) / boxes, 230.0)
    taken = width * boxes + PASSAGE * (len(row) - boxes) + gap * (len(row) - 1)
    x = (panel - taken) / 2
    found = []
    for name in row:
        own = PASSAGE if ">" in name else width
        found.append((name, Place(x=round(x, 1), y=number * PITCH, width=round(own, 1))))
        x += own + gap
    return found


def _bend(points: Sequence[tuple[float, float]]) -> str:
    """Join points by curves that leave and arrive vertically."""
    (x, y), *others = points
    path = [f"M{x:g} {y:g}"]
    for next_x, next_y in others:
        half = (y + next_y) / 2
        path.append(f"C{x:g} {half:g} {next_x:g} {half:g} {next_x:g} {next_y:g}")
        x, y = next_x, next_y
    return "".join(path)


def _wrap(text: str, width: float, size: float, lines: int = 2) -> list[str]:
    """Break text at blanks into at most so many lines of so many pixels; what is left over becomes an ellipsis."""
    found: list[str] = []
    words = text.replace("`", "").rstrip(".").split()
    while words and len(found) < lines:
        line = words.pop(0)
        while words and len(f"{line} {words[0]}") * size * ADVANCE <= width:
            line += f" {words.pop(0)}"
        found.append(line)
    if words:
        found[-1] = _shorten(f"{found[-1]} {' '.join(words)}", width, size)
    return found


def _shorten(text: str, width: float, size: float) -> str:
    most = int(width / (size * ADVANCE))
    return text if len(text) <= most else text[: most - 1].rstrip(" ,:;") + "…"


def print_sizes() -> None:
    """Print the modules and lines of each folder, layer by layer."""
    for package, layers in read_layers().items():
        print(f"{package + '/':<24}{'modules':>8}{'lines':>8}")
        for folder in (folder for layer in layers for folder in layer):
            files = list_modules(folder)
            lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
            print(f"  {folder.partition('.')[2]:<22}{len(files):>8}{lines:>8}")


def main() -> None:
    """Write the picture, print the sizes."""
    PICTURE.write_text(draw(), encoding="utf-8")
    print_sizes()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
