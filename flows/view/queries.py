"""Queries of the page, answered as JSON: a page of rows, the points of a chart, the views, and all rows as a file."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial, wraps
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from cmrm.errors import UserError
from cmrm.untrusted.redaction import redact_known
from flows.sql.catalogue import read_views
from flows.sql.grid import cut_cell, take_rows
from flows.sql.values import MAX_CELL_TEXT, is_number
from flows.view.chart import read_points
from flows.view.databases import Databases
from flows.view.download import FORMATS, Download
from flows.view.results import Result, Results
from flows.view.watching import run_watched
from storage.errors import StoreError
from storage.sql.macros import MACROS

# Rows of a page.
PAGE_ROWS = 100
MOST_BYTES = 1 << 20

Endpoint = Callable[[Request], Awaitable[Response]]


class Queries:
    """The endpoints of queries on a store's databases."""

    def __init__(self, databases: Databases, results: Results) -> None:
        self._databases = databases
        self._results = results

    def routes(self) -> list[Route]:
        """List where they are found."""
        return [
            Route("/queries", _explained(self.ask), methods=["POST"]),
            Route("/queries/{name}", _explained(self.turn), methods=["GET"]),
            Route("/queries/{name}/chart", _explained(self.chart), methods=["GET"]),
            Route("/queries/{name}/rows.{format}", _explained(self.download), methods=["GET"]),
            Route("/views", _explained(self.views), methods=["GET"]),
        ]

    async def ask(self, request: Request) -> Response:
        """Run a query and answer with its first rows; a browser that goes away stops it."""
        query, run = await _read_query(request)
        name, result = await run_in_threadpool(self._results.add, query, run)
        try:
            page = await run_watched(request, partial(_read_page, result, 0), result.stop)
        except UserError:
            await run_in_threadpool(self._results.drop, name)
            raise
        schema = result.start()
        columns = [
            {"name": field.name, "kind": str(field.type), "numeric": is_number(field.type)}
            for field in schema
        ]
        return JSONResponse({"id": name, "columns": columns, "warning": result.warning, **page})

    async def turn(self, request: Request) -> Response:
        """Answer with the rows from `start` on."""
        result = self._find(request)
        start = _read_number(request, "start")
        return JSONResponse(await run_watched(request, partial(_read_page, result, start), result.stop))

    async def chart(self, request: Request) -> Response:
        """Answer with the points of the columns x and y, and by if it is given."""
        result = self._find(request)
        by = _read_number(request, "by") if request.query_params.get("by") else None
        work = partial(read_points, result, x=_read_number(request, "x"), y=_read_number(request, "y"), by=by)
        return JSONResponse(await run_watched(request, work, result.stop))

    async def download(self, request: Request) -> Response:
        """Answer with all rows as a file."""
        format_ = request.path_params["format"]
        if format_ not in FORMATS:
            raise UserError(f"rows come as {' or '.join(FORMATS)}")
        return await run_in_threadpool(Download, self._find(request), format_)

    async def views(self, _: Request) -> Response:
        """Answer with the views, their columns and the macros."""
        return JSONResponse(await run_in_threadpool(self._describe))

    def _describe(self) -> dict[str, Any]:
        connection = self._databases.open_scope(None).connection
        try:
            views = [asdict(view) for view in read_views(connection)]
        finally:
            connection.close()
        return {"views": views, "macros": [{"call": one.call, "comment": one.comment} for one in MACROS]}

    def _find(self, request: Request) -> Result:
        return self._results.find(request.path_params["name"])


def _explained(endpoint: Endpoint) -> Endpoint:
    """Answer a mistake with a sentence that says what, where and the fix; secrets are redacted."""

    @wraps(endpoint)
    async def explained(request: Request) -> Response:
        try:
            return await endpoint(request)
        except (UserError, StoreError) as error:
            text = redact_known(str(error))
            if request.url.path.endswith(tuple(f".{one}" for one in FORMATS)):
                return PlainTextResponse(text, status_code=400)
            return JSONResponse({"error": text}, status_code=400)

    return explained


def _read_page(result: Result, start: int) -> dict[str, Any]:
    table = result.read(start, PAGE_ROWS + 1)
    rows = take_rows(table.to_batches())
    return {
        "start": start,
        "rows": [[cut_cell(cell, MAX_CELL_TEXT) for cell in row] for row in rows[:PAGE_ROWS]],
        "more": len(rows) > PAGE_ROWS,
        "total": result.total,
    }


async def _read_query(request: Request) -> tuple[str, str | None]:
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise UserError("a query is sent as application/json")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BYTES:
            raise UserError(f"the query is longer than {MOST_BYTES:,} bytes")
    try:
        given = json.loads(body)
        query, run = given["query"], given.get("run")
        query.encode()  # half a surrogate pair is no text
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError('a query is sent as {"query": "SELECT …", "run": null}') from None
    if not isinstance(query, str) or not isinstance(run, str | None):
        raise UserError("query and run are texts")
    return query, run or None


def _read_number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise UserError(f"{name}: a whole number from 0 on is expected")
    return int(text)
