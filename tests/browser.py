"""The browser that pages are tried in: the system's Chromium, which asks nothing of the network by itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
# On a machine that does much else a page may need more than the usual five seconds.
expect.set_options(timeout=60_000)
needs_browser = pytest.mark.skipif(_CHROMIUM is None, reason="no Chromium on this machine")


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start Chromium, and close it when the body ends."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=_CHROMIUM, args=list(_QUIET))
        yield opened
        opened.close()


def open_samples(page: Page, address: str) -> None:
    """Open a page of samples, and wait for their list: it is drawn once texts are decoded, after the page is loaded."""
    page.goto(address)
    expect(page.locator("#found")).to_contain_text("samples")
