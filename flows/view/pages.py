"""The pages of the server: runs, a report, comparisons, and queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from cmrm.errors import UserError
from cmrm.untrusted.redaction import redact_known
from flows.report.writers.html import read_assets, render_page
from flows.view.access import RUNS, Access
from flows.view.comparisons import list_comparisons, read_comparison
from flows.view.policy import make_own_header, make_stored_header
from flows.view.reports import read_report
from flows.view.runs import list_runs
from storage.errors import StoreError
from storage.records.layout import check_run_id
from storage.store import Store

TEMPLATES = Path(__file__).parent / "templates"
ASSETS = Path(__file__).parent / "assets"
# Those of the report that these pages share, and their own.
SHARED_STYLES = ("theme.css", "tables.css", "controls.css", "print.css")
STYLES = ("view.css",)
QUERY_STYLES = ("view.css", "query.css")
QUERY_SCRIPTS = ("rows.js", "chart.js", "views.js", "query.js")
# What the scripts of the report and of these pages share.
SHARED_SCRIPTS = ("page.js",)
RUNS_A_PAGE = 50

Endpoint = Callable[[Request], Response]


class Pages:
    """The endpoints of the pages of one store."""

    def __init__(self, store: Store, *, access: Access) -> None:
        self._store = store
        self._access = access

    def routes(self) -> list[Route]:
        """List where they are found."""
        return [
            Route("/", self._explained(self.runs), methods=["GET"]),
            Route(f"/{RUNS}/{{run}}", self._explained(self.find_report), methods=["GET"]),
            Route(f"/{RUNS}/{{run}}/{{seal}}", self._explained(self.report), methods=["GET"]),
            Route("/comparisons", self._explained(self.comparisons), methods=["GET"]),
            Route("/comparisons/{key}", self._explained(self.comparison), methods=["GET"]),
            Route("/sql", self._explained(self.sql), methods=["GET"]),
        ]

    def runs(self, request: Request) -> Response:
        """List the runs."""
        runs = list_runs(self._store)
        last = max(0, (len(runs) - 1) // RUNS_A_PAGE)
        number = min(_read_number(request.query_params.get("page", "")), last)
        shown = runs[number * RUNS_A_PAGE : (number + 1) * RUNS_A_PAGE]
        return self._show("runs", runs=shown, count=len(runs), page=number, last=last)

    def find_report(self, request: Request) -> Response:
        """Lead to a run's report."""
        run_id = check_run_id(request.path_params["run"])
        return RedirectResponse(f"/{RUNS}/{run_id}/{self._access.seal_run(run_id)}", status_code=303)

    def report(self, request: Request) -> Response:
        """Show a run's report, as the store has it."""
        page = read_report(self._store, request.path_params["run"])
        return HTMLResponse(page, headers={"content-security-policy": make_stored_header(page)})

    def comparisons(self, _: Request) -> Response:
        """List the comparisons of two runs."""
        return self._show("comparisons", comparisons=list_comparisons(self._store))

    def comparison(self, request: Request) -> Response:
        """Show one comparison."""
        return self._show("comparison", found=read_comparison(self._store, request.path_params["key"]))

    def sql(self, request: Request) -> Response:
        """Show the page of queries."""
        runs = [(run.run_id, run.name, run.status) for run in list_runs(self._store) if run.has_report]
        return self._show(
            "sql",
            styles=QUERY_STYLES,
            scripts=QUERY_SCRIPTS,
            policy="; connect-src 'self'",
            runs=runs,
            chosen=request.query_params.get("run", ""),
        )

    def _show(
        self,
        name: str,
        *,
        status: int = 200,
        styles: Sequence[str] = STYLES,
        scripts: Sequence[str] = (),
        policy: str = "",
        **values: Any,
    ) -> Response:
        page = render_page(
            f"{name}.html.jinja",
            style="\n".join([read_assets("css", SHARED_STYLES), _read(styles)]),
            script="\n".join([read_assets("js", SHARED_SCRIPTS), _read(scripts)]) if scripts else "",
            folder=TEMPLATES,
            data={},
            more_policy=policy,
            here=name,
            root=self._access.root,
            store=redact_known(self._store.url),
            **values,
        )
        headers = {
            "content-security-policy": make_own_header(page),
            "cross-origin-opener-policy": "same-origin",
        }
        return HTMLResponse(page.encode("utf-8", "replace"), status_code=status, headers=headers)

    def _explained(self, endpoint: Endpoint) -> Endpoint:
        """Show a page that says what is wrong, where, and the fix, in place of one that cannot be shown."""

        @wraps(endpoint)
        def explained(request: Request) -> Response:
            try:
                return endpoint(request)
            except (UserError, StoreError) as error:
                return self._show("fault", status=404, fault=redact_known(str(error)))

        return explained


def _read_number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0


def _read(names: Sequence[str]) -> str:
    return "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in names)
