"""ASGI middleware: refuses who may not ask, lets in who has the token, and adds headers that confine each answer."""

from __future__ import annotations

import sys

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cmrm.errors import UserError
from cmrm.untrusted.redaction import redact_known
from flows.debugging import format_traceback
from flows.terminal.safe_text import show_safely
from flows.view.access import METHODS, Access
from storage.errors import StoreError

# Of what brings no policy of its own, such as a refusal or rows as JSON.
CLOSED = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "content-security-policy": CLOSED,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    # Answers may be harmful texts of other people: no cache keeps them.
    "cache-control": "no-store",
}
# A navigation of its own, which sends the cookie also where another program's link led here; a redirect would not.
ADMITTED = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>cmrm</title><meta http-equiv="refresh" content="0;url={home}">
<p><a href="{home}">Go on</a></p></html>
"""


class Guard:
    """Passes on to `app` what `access` admits."""

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = False

        async def confine(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        request = Request(scope)
        answer = self._answer(request)
        root = "" if self._access.is_sealed(request) else self._access.root
        try:
            await (answer or self._app)({**scope, "root_path": root}, receive, confine)
        except Exception as error:
            print(_explain(error), file=sys.stderr)  # noqa: T201 - where a command says what failed
            if started:
                raise  # what was sent must not look whole
            lost = PlainTextResponse("cmrm view failed; its terminal says how.", status_code=500)
            await lost(scope, receive, confine)

    def _answer(self, request: Request) -> Response | None:
        refusal = self._access.find_refusal(request)
        if refusal is not None:
            allowed = {"Allow": ", ".join(METHODS)} if refusal.status == 405 else None
            return PlainTextResponse(refusal.reason, status_code=refusal.status, headers=allowed)
        if not self._access.enters(request):
            return None
        home = f"{self._access.root}/"
        answer = HTMLResponse(ADMITTED.format(home=home))
        answer.set_cookie(
            self._access.cookie, self._access.token, path=home, httponly=True, samesite="strict"
        )
        return answer


def _explain(error: Exception) -> str:
    """A line for what a person can mend, such as a query that fails midway in a file; a traceback for all else."""
    if isinstance(error, UserError | StoreError):
        return show_safely(redact_known(f"cmrm: {error}"))
    return format_traceback(error)
