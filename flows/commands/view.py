"""`cmrm view`: a local, read-only page of a store."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter, validators

from flows.commands.store_place import DEFAULT_STORE, StorePlace
from flows.process import INTERRUPTED


def view(
    store: StorePlace = DEFAULT_STORE,
    *,
    port: Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))] = 0,
    browser: bool = True,
) -> None:
    """Look at a store in a browser: runs, reports, comparisons, and SQL as tables and charts.

    The page is read-only, on this machine alone, and for whoever has the address that is printed. Ctrl-C ends it, with
    status 130.

    Parameters
    ----------
    store
        The store: a folder or an fsspec URL.
    port
        The port to listen on; 0 is a free one.
    browser
        Open a browser, if this is a terminal that has one.
    """
    from flows.view.server import serve
    from storage.store import Store

    try:
        serve(Store.open(store), port=port, browser=browser)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
