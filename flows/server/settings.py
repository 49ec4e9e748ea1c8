"""Prefect's settings with a few values replaced for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def override_settings(changes: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Replace values of Prefect's settings in this thread while the body runs: `{"client": {"max_retries": 0}}`.

    Values are taken as they are. Prefect's own `temporary_settings` validates all settings anew, for which it reads
    the environment and its files once for each group of them: 25 ms of the processor.
    """
    from prefect.context import SettingsContext, get_settings_context

    current = get_settings_context()
    groups = {
        name: getattr(current.settings, name).model_copy(update=values) for name, values in changes.items()
    }
    settings = current.settings.model_copy(update=groups)
    with SettingsContext(profile=current.profile, settings=settings):
        yield
