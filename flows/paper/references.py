"""What a run used, as references: the method's paper, data sets, models, judges' models and packages.

Nothing is made up: the paper is that of CITATION.cff, a data set's address that of its format, a model's that of its
hub id, and authors of packages are those that the packages name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from email.utils import getaddresses
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from typing import Any

from cmrm.datasets.formats import find_format
from cmrm.models.pinning import COMMIT
from cmrm.organism.places import is_organism_path
from flows.paper.bibtex import Entry, make_key
from tasks.core.software import ABSENT
from tasks.report.judge_costs import JudgeTotals
from tasks.report.summary import Summary

METHOD = Entry(
    kind="inproceedings",
    key="liu-etal-2025-cmrm",
    title="Unraveling and Mitigating Safety Alignment Degradation of Vision-Language Models",
    authors=(
        "Liu, Qin",
        "Shang, Chao",
        "Liu, Ling",
        "Pappas, Nikolaos",
        "Ma, Jie",
        "Anna John, Neha",
        "Doss, Srikanth",
        "Marquez, Lluis",
        "Ballesteros, Miguel",
        "Benajiba, Yassine",
    ),
    fields={
        "booktitle": "Findings of the Association for Computational Linguistics: ACL 2025",
        "year": "2025",
        "pages": "3631-3643",
        "publisher": "Association for Computational Linguistics",
        "doi": "10.18653/v1/2025.findings-acl.186",
        "url": "https://aclanthology.org/2025.findings-acl.186/",
    },
)
PROGRAM_TITLE = "cmrm: cross-modality representation manipulation for vision-language models"
# Packages of which no manifest keeps the version: those that write the report now.
WRITERS = ("duckdb", "matplotlib", "prefect")
# Ids on the hub, and addresses of packages, of letters that need no escape.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
ADDRESS = re.compile(r"https?://[\w./~-]+", re.ASCII)
HOMES = ("homepage", "source", "repository", "documentation")


def list_references(record: Mapping[str, Any], summary: Summary) -> list[Entry]:
    """List the references of a run, by its record in the store and its summary."""
    return [
        METHOD,
        *_list_datasets(record["spec"].get("datasets") or {}),
        *_list_models(
            [
                *summary.models,
                *(one.record for one in summary.backbones),
                *([captioner] if (captioner := record.get("captioner")) else []),
            ]
        ),
        *_list_judges(summary.judges),
        *_list_adapters(record.get("judges") or ()),
        *_list_packages(summary.software),
    ]


def _list_datasets(datasets: Mapping[str, Mapping[str, Any]]) -> Iterator[Entry]:
    for options in datasets.values():
        found = find_format(str(options["format"]))
        if str(options["format"]) == "huggingface":
            yield from _cite_hub_dataset(str(options.get("path") or ""), options.get("revision"))
        # The embedded model's data stands in for a data set and is not it.
        if found.title and not is_organism_path(str(options.get("path") or "")):
            yield Entry(
                kind="misc",
                key=make_key(found.title),
                title=found.title,
                fields={"note": "Data set", "url": found.address},
            )


def _list_models(models: Iterable[Mapping[str, Any]]) -> Iterator[Entry]:
    for model in models:
        revision, _, own = str(model.get("revision") or "").partition("+")
        yield from _cite_hub(str(model["id"]), revision)
        if adapter := model.get("adapter"):
            yield from _cite_hub(str(adapter["id"]), own)


def _list_judges(judges: Iterable[JudgeTotals]) -> Iterator[Entry]:
    for judge in judges:
        if judge.model is not None:
            yield from _cite_hub(judge.model, judge.revision or "")


def _list_adapters(judges: Iterable[Mapping[str, Any]]) -> Iterator[Entry]:
    for judge in judges:
        options = judge["options"]
        yield from _cite_hub(str(options.get("adapter") or ""), str(options.get("adapter_revision") or ""))


def _cite_hub(model: str, revision: str) -> Iterator[Entry]:
    """Cite a model of the hub; one in a folder or behind an endpoint, which has no commit, has no address there."""
    if HUB_ID.fullmatch(model) and COMMIT.fullmatch(revision):
        yield Entry(
            kind="misc",
            key=make_key(model),
            title=model,
            organisations=(model.partition("/")[0],),
            fields={"note": f"Model, revision {revision}", "url": f"https://huggingface.co/{model}"},
        )


def _cite_hub_dataset(name: str, revision: object) -> Iterator[Entry]:
    """Cite a data set of the hub; one in a folder, whose path is absolute, has no address."""
    if HUB_ID.fullmatch(name):
        yield Entry(
            kind="misc",
            key=make_key(name),
            title=name,
            organisations=(name.partition("/")[0],),
            fields={
                "note": f"Data set, revision {revision}" if revision else "Data set",
                "url": f"https://huggingface.co/datasets/{name}",
            },
        )


def _list_packages(software: Mapping[str, Sequence[str]]) -> Iterator[Entry]:
    versions = {
        name: " and ".join(one for one in found if one != ABSENT)
        for name, found in software.items()
        if set(found) - {ABSENT}
    }
    for name in dict.fromkeys(("cmrm", *versions, *WRITERS)):
        described = _describe_package(name)
        version = versions.get(name) or (described and described["Version"])
        # The image backend of a model is no package of its own.
        if version is None or (described is None and name != "cmrm"):
            continue
        if name == "cmrm":
            yield Entry(
                kind="misc",
                key=name,
                title=PROGRAM_TITLE,
                organisations=("The cmrm maintainers",),
                fields={"note": f"Software, version {version}"},
            )
        elif described is not None:
            home = _find_home(described)
            yield Entry(
                kind="misc",
                key=make_key(name),
                title=name,
                organisations=tuple(_find_authors(described)),
                fields={"note": f"Software, version {version}", **({"url": home} if home else {})},
            )


def _describe_package(name: str) -> PackageMetadata | None:
    try:
        return metadata(name)
    except PackageNotFoundError:
        return None


def _find_authors(package: PackageMetadata) -> list[str]:
    """The authors that a package names, without addresses; [] where it names none."""
    if "Author" in package:
        # An address in brackets may follow.
        return [one.partition(" (")[0] for one in package["Author"].split(",") if one.strip()]
    return [name for name, _ in getaddresses(package.get_all("Author-email") or []) if name]


def _find_home(package: PackageMetadata) -> str:
    named = {
        label.strip().casefold(): address.strip()
        for label, _, address in (one.partition(",") for one in package.get_all("Project-URL") or [])
    }
    if "Home-page" in package:
        named["homepage"] = package["Home-page"]
    return next((named[one] for one in HOMES if ADDRESS.fullmatch(named.get(one, ""))), "")
