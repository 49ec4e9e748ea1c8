"""Find the row of a model type: in the table, or among the rows that installed packages register."""

from __future__ import annotations

from importlib.metadata import entry_points

from cmrm.errors import UserError
from cmrm.models.families import EXAMPLE_ROW, PAGE, Family
from cmrm.models.family_table import FAMILIES

# Entry-point group in which a package registers rows: each entry is named after its model type and is a `Family`.
ENTRY_POINTS = "cmrm.families"


def get_family(model_type: str, *, where: str) -> Family:
    """Look up a model type in the table, then among the rows that installed packages register.

    `where` names the model in the error. Raises `UserError` for a type without a row, naming what to add, and for a
    registered row that cannot be imported.
    """
    family = find_family(model_type)
    if family is None:
        raise UserError(
            f"model type {model_type!r} of {where} is in no table: listed types are {', '.join(sorted(FAMILIES))}. "
            f"Give a row in the spec, such as model.family: {EXAMPLE_ROW} (`blocks`: the path from get_decoder() to "
            "its decoder blocks; `image_token`: the config field of its image token), or register a Family from a "
            f"package of your own (entry-point group {ENTRY_POINTS!r}); see {PAGE}."
        )
    return family


def find_family(model_type: str) -> Family | None:
    """Find the row of a model type, as `get_family` does; None for a type without one."""
    return FAMILIES.get(model_type) or _find_registered(model_type)


def is_of_table(family: Family, model: object) -> bool:
    """Whether the table describes a model: its row is unchanged, and its class is transformers' own."""
    own_class = type(model).__module__.partition(".")[0] == "transformers"
    return own_class and family == FAMILIES.get(family.model_type)


def _find_registered(model_type: str) -> Family | None:
    for entry in entry_points(group=ENTRY_POINTS, name=model_type):
        place = f"{entry.value} (entry point {entry.name!r} of group {ENTRY_POINTS!r})"
        try:
            family = entry.load()
        except (ImportError, AttributeError) as error:
            raise UserError(f"{place} cannot be imported: {error}. Fix or uninstall its package.") from error
        if not isinstance(family, Family) or family.model_type != model_type:
            raise UserError(f"{place} is not a Family for model type {model_type!r} but {family!r}.")
        return family
    return None
