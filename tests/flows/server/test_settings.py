"""Prefect's settings are replaced for a while: as its own function replaces them, and without reading its sources."""

from __future__ import annotations

import pytest
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)
from prefect.settings.base import PrefectBaseSettings
from prefect.settings.context import get_current_settings

from flows.server.progress import PATIENCE
from flows.server.settings import override_settings

URL = "http://127.0.0.1:9/api"


def test_what_is_replaced_is_what_prefects_own_function_replaces() -> None:
    with temporary_settings({PREFECT_API_URL: URL}):
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: 5.0}):
            expected = get_current_settings().model_dump()
        with override_settings(PATIENCE):
            assert get_current_settings().model_dump() == expected
            assert PREFECT_API_URL.value() == URL
        assert PREFECT_CLIENT_MAX_RETRIES.value() > 0
        assert PREFECT_API_REQUEST_TIMEOUT.value() > 5.0


def test_settings_come_back_after_an_error() -> None:
    before = get_current_settings()
    with pytest.raises(ValueError, match="wrong"), override_settings(PATIENCE):
        raise ValueError("wrong")
    assert get_current_settings() is before


def test_no_source_of_settings_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("settings were read again")

    monkeypatch.setattr(PrefectBaseSettings, "settings_customise_sources", refuse)
    with override_settings(PATIENCE):
        assert PREFECT_CLIENT_MAX_RETRIES.value() == 0
