"""Take the pictures of the report in these documents: `python docs/take_screenshots.py STORE/reports/RUN/report.html`.

They are of `cmrm run --limit 60`, the embedded model's, whose images stay blurred and whose forbidden questions are
made-up words. It needs the checkout's `dev` extra and Chromium.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image
from playwright.sync_api import Browser, expect

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.browser import open_browser

FOLDER = Path(__file__).parent
MOST_BYTES = 120_000


class Shot(NamedTuple):
    """A picture: its name, the section it begins at, and the window."""

    name: str
    section: str
    size: tuple[int, int]
    scheme: Literal["light", "dark"]


SHOTS = (
    Shot("report-first-screen", "", (1200, 800), "light"),
    Shot("report-samples", "answers", (1200, 800), "light"),
    Shot("report-states", "states", (1200, 800), "light"),
    Shot("report-dark-phone", "", (390, 800), "dark"),
)


def take(browser: Browser, report: Path, shot: Shot) -> bytes:
    """The picture as WebP."""
    width, height = shot.size
    page = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme=shot.scheme, reduced_motion="reduce"
    )
    page.goto(f"{report.resolve().as_uri()}#{shot.section}")
    expect(page.locator("#found")).to_contain_text("samples")
    if shot.section:
        expect(page.locator(f"#{shot.section} h2").first).to_be_in_viewport()
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    page.close()
    buffer = BytesIO()
    picture.save(buffer, "WEBP", quality=85, method=6)
    return buffer.getvalue()


def main() -> None:
    """Take them all, and say how large they are."""
    report = Path(sys.argv[1])
    with open_browser() as browser:
        for shot in SHOTS:
            data = take(browser, report, shot)
            if len(data) > MOST_BYTES:
                raise SystemExit(f"{shot.name}: {len(data):,} bytes, more than {MOST_BYTES:,}")
            (FOLDER / f"{shot.name}.webp").write_bytes(data)
            print(f"{shot.name}.webp: {len(data):,} bytes")


if __name__ == "__main__":
    main()
