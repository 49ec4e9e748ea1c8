"""What the site adds to MkDocs: pages that lie outside `docs/`, and lists as code hosts read them.

A link to a file of the repository would lead out of the site, so each such file becomes a page that shows it. One that
is not there stays as it is, and MkDocs, which is strict, refuses it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Pages of the repository that are pages of the site, by their place in each.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "findings/README.md": "findings.md",
}
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
CODE = re.compile(r"`[^`]+`")
ITEM = re.compile(r"( *)([*+-]|\d+\.) +")
LANGUAGES = {".py": "python", ".sh": "sh", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".cff": "yaml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere, and those of the files that any page links to."""
    for path, uri in PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / path).read_text(encoding="utf-8")))
    linked = {
        resolve(link, uri=file.src_uri)
        for file in files.documentation_pages()
        for link, _ in LINK.findall(file.content_string)
    }
    for path in sorted(linked):
        if (ROOT / path).exists() and not path.startswith("docs/") and path not in PAGES:
            files.append(File.generated(config, name_source(path), content=show_source(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Lead links out of `docs/` to the pages that stand for their files, and indent lists as Python-Markdown does."""
    uri = page.file.src_uri
    if uri.startswith("source/"):
        return markdown

    def lead(match: re.Match[str]) -> str:
        link, anchor = match.group(1), match.group(2) or ""
        path = resolve(link, uri=uri)
        if path in PAGES:
            target = PAGES[path]
        elif path.startswith("docs/"):
            target = path.removeprefix("docs/")
        elif (ROOT / path).exists():
            target = name_source(path)
        else:
            return match.group(0)
        return f"]({posixpath.relpath(target, posixpath.dirname(uri) or '.')}{anchor})"

    return indent_lists(LINK.sub(lead, markdown))


def resolve(link: str, *, uri: str) -> str:
    """The place in the repository that a link of a page means; the page is named by its place in the site."""
    own = next((path for path, there in PAGES.items() if there == uri), f"docs/{uri}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(own), link))


def name_source(path: str) -> str:
    """Name the page that shows a file or a folder of the repository."""
    return f"source/{path}.md"


def show_source(path: str) -> str:
    """Write the page that shows a file, or names the files of a folder."""
    place = ROOT / path
    head = f"---\nsearch:\n  exclude: true\nhide: [toc]\n---\n\n# {path}\n\n"
    if place.is_dir():
        names = sorted(
            one.name for one in place.iterdir() if one.name[0] not in "._" or one.name == "__init__.py"
        )
        return head + "\n".join(f"* `{name}`" for name in names) + "\n"
    language = LANGUAGES.get(PurePosixPath(path).suffix, "text")
    return f"{head}````` {language}\n{place.read_text(encoding='utf-8')}`````\n"


def indent_lists(markdown: str) -> str:
    """Indent what belongs to an item by four columns a level, and part lists from the text above them.

    Code hosts take two columns, or as many as the item's mark has, and need no blank line; Python-Markdown does.
    """
    found: list[str] = []
    levels: list[int] = []
    fenced = False
    # Whether the item that is read has paragraphs; the next one is then recognised behind a blank line alone.
    loose = False
    for line in markdown.split("\n"):
        text = line.lstrip(" ")
        indent = len(line) - len(text)
        if text and not fenced:
            while levels and indent < levels[-1]:
                levels.pop()
        inside = max(indent - (levels[-1] if levels else 0), 0)
        item = None if fenced or inside > 3 else ITEM.match(line)
        if item:
            if (
                found
                and found[-1]
                and (loose or not (levels or found[-1].startswith(" ") or ITEM.match(found[-1])))
            ):
                found.append("")
            # An item's blanks before its mark are none of its depth.
            levels.append(len(item.group(0)))
            found.append(" " * 4 * (len(levels) - 1) + text)
            loose = False
            continue
        if text.startswith("```"):
            fenced = not fenced
        loose = loose or (not text and bool(levels))
        found.append(" " * (4 * len(levels) + inside) + unescape_pipes(text) if text else "")
    return "\n".join(found)


def unescape_pipes(line: str) -> str:
    """Drop the backslash before a pipe in code inside a table, which Python-Markdown would show."""
    return CODE.sub(lambda code: code.group(0).replace("\\|", "|"), line) if line.startswith("|") else line
