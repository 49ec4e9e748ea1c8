"""Optional packages (extras), required by some options of loading a model."""

from __future__ import annotations

from importlib.util import find_spec

from cmrm.errors import UserError


def need_package(package: str, *, extra: str, field: str) -> None:
    """Raise `UserError` unless a package can be imported; `field` of the spec is what requires it."""
    if find_spec(package) is None:
        raise UserError(
            f"{field}: needs the package {package}, which is not installed: pip install 'cmrm[{extra}]'"
        )
