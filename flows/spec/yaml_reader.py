"""Strict YAML reader: duplicate keys, deep nesting and alias bombs are errors of one line with the line number.

Uses the standard constructors of PyYAML on nodes composed here from its events, with bounded depth, and bounded size
after alias expansion. Imported lazily, since PyYAML takes time to import.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import yaml

from cmrm.errors import UserError
from cmrm.untrusted.printable import show, show_value

MOST_DEPTH = 40
# Most values after alias expansion: as many as are read in a few seconds.
MOST_VALUES = 200_000
_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
# YAML 1.1 counts 1:30 in sixties and 010 in eights, and nobody who writes them means that.
_MISREAD = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
# Characters outside YAML's c-printable; and those that UTF-8 and databases cannot store, after unescaping.
_NOT_PRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NOT_STORED = re.compile("[\0\ud800-\udfff]")
# libyaml's parser if PyYAML was built with it: ten times faster.
_Parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Raised by PyYAML's constructors for invalid dates, numbers and tags.
_REFUSALS = (ValueError, ArithmeticError, LookupError, AttributeError, TypeError)


def parse_yaml(text: str, *, where: str) -> Any:
    """Parse one YAML document; raises `UserError` of one line, with the line number, for anything else."""
    try:
        _refuse_control_characters(text)
        root = _compose(text)
        return None if root is None else _Values().construct_document(root)
    except _YamlSyntaxError as error:
        raise UserError(f"{where}: line {error.line}: {error}.") from None
    except yaml.MarkedYAMLError as error:
        raise UserError(f"{where}: {_explain(error, text)}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{where}: is not YAML: {show(' '.join(str(error).split()))}.") from None


class _YamlSyntaxError(ValueError):
    def __init__(self, mark: yaml.Mark, message: str) -> None:
        super().__init__(message)
        self.line = mark.line + 1


@dataclass(kw_only=True)
class _Open:
    """An open list or mapping: its values so far, and the line numbers of its keys."""

    node: yaml.SequenceNode | yaml.MappingNode
    anchor: str | None
    size: int = 1
    height: int = 1
    key: yaml.Node | None = None
    lines: dict[Hashable, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Anchored:
    """An anchored value: its number of values after alias expansion, and its depth."""

    node: yaml.Node
    size: int
    height: int


class _Values(yaml.constructor.SafeConstructor):
    """PyYAML's constructors; an invalid number or date raises an error with its line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's
        try:
            value = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except _REFUSALS as error:
            kind = node.tag.rpartition(":")[2]
            raise _YamlSyntaxError(
                node.start_mark,
                f"{show_value(node.value)} looks like a value of type {show(kind)} and is none ({show(error)}); "
                "put it in quotes if it is text",
            ) from None
        if isinstance(value, int) and value.bit_length() > 63:
            raise _YamlSyntaxError(
                node.start_mark,
                f"a whole number of {len(node.value)} digits is too large; put it in quotes if it is text",
            )
        return value


class _Composer:
    """Composes one document's nodes from its events."""

    def __init__(self) -> None:
        self.root: yaml.Node | None = None
        self._resolver = yaml.resolver.Resolver()
        self._values = _Values()
        self._open: list[_Open] = []
        self._anchors: dict[str, _Anchored] = {}
        self._anchor_lines: dict[str, int] = {}
        self._size = 0

    def take(self, event: yaml.Event) -> None:
        """Take the next event of the document."""
        match event:
            case yaml.AliasEvent():
                self._repeat(event)
            case yaml.ScalarEvent():
                self._add(self._make_scalar(event), event.start_mark)
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                self._begin(event)
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                ended = self._open.pop()
                if ended.anchor is not None:
                    self._anchors[ended.anchor] = _Anchored(
                        node=ended.node, size=ended.size, height=ended.height
                    )
                self._add(ended.node, ended.node.start_mark, size=ended.size, height=ended.height)
            case yaml.DocumentStartEvent() if self.root is not None:
                raise _YamlSyntaxError(event.start_mark, "a second document begins; give one a file")

    def _make_scalar(self, event: yaml.ScalarEvent) -> yaml.ScalarNode:
        if found := _NOT_STORED.search(event.value):
            raise _YamlSyntaxError(
                event.start_mark, f"a text holds U+{ord(found[0]):04X}, which cannot be stored; take it out"
            )
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._resolver.resolve(yaml.ScalarNode, event.value, event.implicit)
        node = yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark, style=event.style)
        if tag in _NUMBERS and _MISREAD.fullmatch(event.value):
            self._refuse_misread_number(node)
        if event.anchor is not None:
            self._name(event)
            self._anchors[event.anchor] = _Anchored(node=node, size=1, height=1)
        return node

    def _refuse_misread_number(self, node: yaml.ScalarNode) -> None:
        number = show_value(self._values.construct_object(node))
        place = self._name_place()
        what = f"{place} is {show(node.value)}" if place else show(node.value)
        raise _YamlSyntaxError(
            node.start_mark,
            f"{what}, which YAML takes for the number {number}; put it in quotes if it is text, or write {number} if "
            "that is meant",
        )

    def _name_place(self) -> str:
        """Name the field being read: the keys and list indices above it, or "" at the outermost key."""
        steps = []
        for above in self._open:
            if isinstance(above.node, yaml.SequenceNode):
                steps.append(str(len(above.node.value)))
            elif above.key is not None:
                steps.append(show(above.key.value, most=60) if isinstance(above.key.value, str) else "?")
        return ".".join(steps)

    def _begin(self, event: yaml.SequenceStartEvent | yaml.MappingStartEvent) -> None:
        kind = yaml.SequenceNode if isinstance(event, yaml.SequenceStartEvent) else yaml.MappingNode
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._resolver.resolve(kind, None, event.implicit)
        if event.anchor is not None:
            self._name(event)
        self._open.append(_Open(node=kind(tag, [], event.start_mark, event.end_mark), anchor=event.anchor))
        self._refuse_depth(0, event.start_mark)

    def _repeat(self, event: yaml.AliasEvent) -> None:
        anchored = self._anchors.get(event.anchor)
        if anchored is None:
            known = event.anchor in self._anchor_lines
            reason = "repeats what it stands in" if known else "has no anchor before it"
            raise _YamlSyntaxError(
                event.start_mark, f"the alias *{show(event.anchor)} {reason}; write it out"
            )
        self._refuse_depth(anchored.height, event.start_mark)
        self._size += anchored.size - 1
        self._add(anchored.node, event.start_mark, size=anchored.size, height=anchored.height)

    def _name(self, event: yaml.NodeEvent) -> None:
        line = self._anchor_lines.setdefault(event.anchor, event.start_mark.line + 1)
        if event.anchor in self._anchors or line != event.start_mark.line + 1:
            raise _YamlSyntaxError(
                event.start_mark,
                f"the anchor &{show(event.anchor)} is on line {line} already; name it otherwise",
            )

    def _add(self, node: yaml.Node, mark: yaml.Mark, *, size: int = 1, height: int = 1) -> None:
        """Add a finished node to its parent; its inner values are already counted."""
        self._size += 1
        if self._size > MOST_VALUES:
            raise _YamlSyntaxError(
                mark, f"there are more than {MOST_VALUES} values up to here, aliases written out; give fewer"
            )
        if not self._open:
            self.root = node
            return
        above = self._open[-1]
        above.size += size
        above.height = max(above.height, height + 1)
        if isinstance(above.node, yaml.SequenceNode):
            above.node.value.append(node)
        elif above.key is None:
            self._refuse_duplicate_key(above, node, mark)
            above.key = node
        else:
            above.node.value.append((above.key, node))
            above.key = None

    def _refuse_duplicate_key(self, mapping: _Open, key: yaml.Node, mark: yaml.Mark) -> None:
        if key.tag == _MERGE:
            return
        if not isinstance(key, yaml.ScalarNode):
            raise _YamlSyntaxError(mark, "a key is a list or a mapping; write it as text")
        value = key.value if key.tag == _TEXT else self._values.construct_object(key)
        if not isinstance(value, Hashable):
            raise _YamlSyntaxError(
                mark, f"the key {show_value(key.value)} is no plain value; write it as text"
            )
        if value in mapping.lines:
            raise _YamlSyntaxError(
                mark,
                f"{show_value(key.value)} is given twice, on line {mapping.lines[value]} and on line "
                f"{mark.line + 1}; leave one out, or name it otherwise",
            )
        mapping.lines[value] = mark.line + 1

    def _refuse_depth(self, height: int, mark: yaml.Mark) -> None:
        if len(self._open) + height > MOST_DEPTH:
            raise _YamlSyntaxError(
                mark, f"lists and mappings lie more than {MOST_DEPTH} deep; write them flatter"
            )


def _compose(text: str) -> yaml.Node | None:
    composer = _Composer()
    for event in yaml.parse(text, Loader=_Parser):
        composer.take(event)
    return composer.root


def _refuse_control_characters(text: str) -> None:
    if found := _NOT_PRINTABLE.search(text):
        line = text.count("\n", 0, found.start())
        mark = yaml.Mark("", found.start(), line, 0, None, None)
        raise _YamlSyntaxError(
            mark, f"it holds U+{ord(found[0]):04X}, which YAML does not allow; take it out"
        )


def _explain(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}: " if mark else ""
    problem = show(" ".join((error.problem or error.context or "it breaks off").split()))
    since = error.context_mark
    context = (
        f" ({show(' '.join(error.context.split()))} that begins on line {since.line + 1})"
        if (error.context and since and error.problem)
        else ""
    )
    hint = "; indent with spaces, not with tabs" if mark and _is_tab(text, mark) else ""
    return f"{place}is not YAML: {problem}{context}{hint}"


def _is_tab(text: str, mark: yaml.Mark) -> bool:
    lines = text.split("\n", mark.line + 1)
    return mark.line < len(lines) and lines[mark.line][mark.column : mark.column + 1] == "\t"
