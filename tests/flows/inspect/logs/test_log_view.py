"""A run's logs in Inspect's own viewer, bundled as a site and opened in a real browser."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import expect

from tests.browser import needs_browser, open_browser

# Each log is read when it is opened.
expect.set_options(timeout=30_000)
pytestmark = needs_browser
# What the viewer looks for beside any logs, and does without.
OPTIONAL = re.compile(r"/logs/(eval-set\.json|flow\.yaml)$")


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder as static hosts do: the viewer reads logs by ranges of bytes, which http.server ignores."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *given: object) -> None:
            super().__init__(*given, directory=str(folder))

        def do_GET(self) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            path = Path(self.translate_path(self.path))
            if asked is None or not path.is_file():
                super().do_GET()
                return
            content = path.read_bytes()
            start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
            self.send_header("Content-Length", str(end - start + 1))
            self.end_headers()
            self.wfile.write(content[start : end + 1])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_inspect_view_lists_the_logs_and_shows_answers_scores_and_images(site, exported, logs):
    log = logs["own", "CMRM α=1"]
    sample = next(one for one in log.samples if one.id == "evil/../1")
    errors: list[str] = []
    with serve(site) as url, open_browser() as browser:
        page = browser.new_page(viewport={"width": 1500, "height": 900})
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda said: (
                said.type == "error"
                and not OPTIONAL.search(said.location["url"])
                and errors.append(said.text)
            ),
        )
        page.goto(url)
        expect(page.get_by_text(f"{len(logs)} items")).to_be_visible()
        for dataset in ("own", "vlsafe"):
            row = page.get_by_role("row").filter(has_text=re.compile(rf"^{dataset}\s*cmrm/llava"))
            expect(row).to_have_count(sum(place[0] == dataset for place in logs))
        page.goto(f"{url}#/logs/{next(exported.glob('*own-CMRM-alpha-1_*')).name}")
        expect(page.get_by_text("own — 13 samples")).to_be_visible()
        expect(page.get_by_text("CMRM α=1", exact=True).first).to_be_visible()
        expect(page.get_by_text("1 of 13 samples")).to_be_visible()
        page.get_by_text("<script>").first.click()
        message = page.get_by_text(sample.output.completion.strip(), exact=False)
        expect(message.first).to_be_visible()
        expect(page.get_by_text(str(sample.scores["match"].value)).first).to_be_visible()
        image = page.locator("img[src^='data:image/png']").first
        expect(image).to_be_visible()
        assert image.evaluate("one => one.naturalWidth") == 41
        assert page.title() != "pwned"
    assert errors == []
