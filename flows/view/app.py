"""The application: pages and queries of one store, behind the guard."""

from __future__ import annotations

from starlette.routing import Router
from starlette.types import ASGIApp

from flows.view.access import Access
from flows.view.databases import Databases
from flows.view.guard import Guard
from flows.view.pages import Pages
from flows.view.queries import Queries
from flows.view.results import Results
from storage.store import Store


def make_app(store: Store, *, access: Access, results: Results, databases: Databases) -> ASGIApp:
    """Make the application of a store."""
    routes = [*Pages(store, access=access).routes(), *Queries(databases, results).routes()]
    return Guard(Router(routes, redirect_slashes=False), access=access)
