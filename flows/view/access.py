"""Who may ask the page: a browser of this machine that was given the token, asking for itself, by GET or POST alone.

The address that is printed holds the token; the answer to it sets a cookie, by which links work. A browser sends a
cookie to every port of its host, where other users of this machine may listen: the pages lie in a folder of a random
name, and the cookie goes to that folder alone. A page on another port could still ask this one, so each request must
also say that this page made it, where a browser says who did.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import quote

from starlette.requests import Request

# A page of another name that a name server says is this machine (DNS rebinding) is refused.
HOSTS = frozenset({"127.0.0.1", "localhost"})
METHODS = ("GET", "POST")
# What browsers say of a request that the page itself made, or that a person typed.
OWN_SITES = frozenset({"same-origin", "none"})
ENTRY = "/"
RUNS = "runs"
TOKEN = "token"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a request is refused: an HTTP status, and a sentence with the fix."""

    status: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Access:
    """The right to ask a server on this port of this machine."""

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    # The path of the pages, without a slash at its end.
    root: str = field(default_factory=lambda: f"/{secrets.token_urlsafe(16)}", repr=False)

    @property
    def address(self) -> str:
        """The address that admits a browser."""
        return f"http://127.0.0.1:{self.port}{ENTRY}?{TOKEN}={quote(self.token)}"

    @property
    def cookie(self) -> str:
        """The name of the cookie: two servers of one machine share a host, and so its cookies."""
        return f"cmrm-view-{self.port}"

    def seal_run(self, run_id: str) -> str:
        """The part of a report's address that admits to that report alone.

        A report runs apart from this page's origin, and a browser sends no cookie when such a page is loaded again. Its
        address lies outside `root`, which its script must not know.
        """
        return hmac.new(self.token.encode(), run_id.encode(), sha256).hexdigest()

    def enters(self, request: Request) -> bool:
        """Whether a request is for the address that was printed, with the token or a wrong one."""
        return request.method == "GET" and request.scope["path"] == ENTRY and TOKEN in request.query_params

    def find_refusal(self, request: Request) -> Refusal | None:
        """Find why a request is refused; None if it is not."""
        refusal = _refuse_foreign(request)
        return refusal if refusal is not None or self.is_sealed(request) else self._refuse_stranger(request)

    def _refuse_stranger(self, request: Request) -> Refusal | None:
        """Refuse who has no token, and who asks by way of a browser that has it."""
        entering = self.enters(request)
        given = request.query_params[TOKEN] if entering else request.cookies.get(self.cookie, "")
        inside = entering or request.scope["path"].startswith(f"{self.root}/")
        if not inside or not secrets.compare_digest(given.encode("utf-8", "replace"), self.token.encode()):
            return Refusal(
                status=403, reason="Open the address that cmrm view has printed: it holds the token."
            )
        if not entering and request.headers.get("sec-fetch-site", "none") not in OWN_SITES:
            return Refusal(status=403, reason="Another site asked for this page: open it from its own links.")
        if request.method == "POST" and request.headers.get("origin") != f"http://{request.headers['host']}":
            return Refusal(
                status=403, reason="A query is asked from this page alone: its origin is another one."
            )
        return None

    def is_sealed(self, request: Request) -> bool:
        """Whether a request is for a report, with the seal of its run."""
        folder, _, rest = request.scope["path"].removeprefix("/").partition("/")
        run_id, _, seal = rest.partition("/")
        wanted = self.seal_run(run_id).encode()
        sealed = secrets.compare_digest(seal.encode("utf-8", "replace"), wanted)
        return sealed and folder == RUNS and request.method == "GET"


def _refuse_foreign(request: Request) -> Refusal | None:
    """Refuse other host names than this machine's, and other methods than are needed."""
    if not _is_local(request.headers.get("host", "")):
        return Refusal(
            status=403, reason=f"This page answers to {' and '.join(sorted(HOSTS))} alone, on this machine."
        )
    if request.method not in METHODS:
        return Refusal(status=405, reason="This page is read-only: ask by GET, and for queries by POST.")
    return None


def _is_local(host: str) -> bool:
    """Whether a Host header names this machine; the port may be another one, that of a tunnel."""
    name, _, port = host.partition(":")
    return name.lower() in HOSTS and (not port or port.isdecimal())
