"""Who may reach the page: token and cookie, Host and Origin, headers of every response.

The address that is printed holds a random token. It is exchanged once for an HttpOnly cookie, which every other request
must bring. The Host header must name this server, so that a page of another name that resolves to loopback (DNS
rebinding) reaches nothing; writes must come from the page itself, by their Origin and by a header that forms cannot
set. There are no CORS headers: other pages read nothing.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from fewscope.annotate.config import LOOPBACK

MAX_BODY = 64 * 2**20
"""Bytes of a request; larger ones are refused with status 413."""

WRITE_HEADER = "X-Fewscope"
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)
REPORT_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; font-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'; sandbox allow-popups"
)
"""Of reports, which have their style in the page and no script at all."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "SAMEORIGIN",
}
NO_COOKIE = (
    "403: this needs the token. Open the address that `fewscope annotate` has printed in its terminal.\n"
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Gate:
    """What a request must bring.

    Attributes
    ----------
    token : str
        Secret of the printed address.
    cookie : str
        Secret of the cookie, another one: the token may stay in the browser's history.
    host : str
        Name or address that the server listens on.
    """

    token: str
    cookie: str
    host: str

    @classmethod
    def new(cls, host: str, token: str | None = None) -> Gate:
        """A gate with new secrets; ``token``: one that a person has chosen."""
        return cls(token or secrets.token_urlsafe(32), secrets.token_urlsafe(32), host)

    def knows_host(self, header: str, port: int) -> bool:
        """Whether a Host header names this server at its port."""
        name, given = _split_host(header)
        if given != port:
            return False
        return name in LOOPBACK or name == self.host or (self.host not in LOOPBACK and name in _own_names())

    def check(self, request: web.Request) -> web.Response | None:
        """The refusal that a request deserves, or None."""
        port = _port_of(request)
        host = request.headers.get("Host", "")
        if len(request.headers.getall("Host", ())) != 1 or not self.knows_host(host, port):
            return _refused("403: the Host header does not name this server.\n")
        if request.path == "/" and request.method == "GET" and "token" in request.query:
            if not hmac.compare_digest(request.query["token"].encode(), self.token.encode()):
                return _refused("403: the token is not the one of this server.\n" + NO_COOKIE[5:])
            return None
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            return _refused("403: another page has asked for this.\n")
        given = request.cookies.get(cookie_name(port), "")
        if not hmac.compare_digest(given.encode(), self.cookie.encode()):
            return _refused(NO_COOKIE)
        if request.method not in ("GET", "HEAD"):
            if request.headers.get("Origin", "") != f"http://{host}":
                return _refused("403: the Origin is not this page.\n")
            if request.headers.get(WRITE_HEADER) != "1":
                return _refused(f"403: writes need the header {WRITE_HEADER}: 1.\n")
        return None

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check every request, and add the headers to every response."""
        response: web.StreamResponse | None = self.check(request)
        if response is None and request.path == "/" and "token" in request.query:
            response = self._welcome(request)
        if response is None:
            try:
                response = await handler(request)
            except web.HTTPException as error:
                error.headers.update(HEADERS | {"Content-Security-Policy": PAGE_POLICY})
                raise
        if not response.prepared:
            add_headers(response)
        return response

    def _welcome(self, request: web.Request) -> web.Response:
        response = web.Response(status=303, headers={"Location": "/", "Cache-Control": "no-store"})
        response.set_cookie(
            cookie_name(_port_of(request)), self.cookie, httponly=True, samesite="Strict", path="/"
        )
        return response


def add_headers(response: web.StreamResponse) -> None:
    """Add the headers that every response has; those that are set already stay."""
    for name, value in (HEADERS | {"Content-Security-Policy": PAGE_POLICY}).items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", "no-store")


def cookie_name(port: int) -> str:
    """Cookies are shared by all ports of a host: the name holds the port."""
    return f"fewscope-{port}"


def _refused(text: str) -> web.Response:
    return web.Response(status=403, text=text)


def _port_of(request: web.Request) -> int:
    """The port at which the request arrived."""
    transport = request.transport
    name = transport.get_extra_info("sockname") if transport is not None else None
    return int(name[1]) if name else -1


def _split_host(header: str) -> tuple[str, int]:
    """Name and port of a Host header; port 80 where it states none.

    >>> _split_host("[::1]:80"), _split_host("localhost")
    (('::1', 80), ('localhost', 80))
    """
    name, colon, port = header.rpartition(":")
    if not colon or "]" in port:
        name, port = header, "80"
    return name.strip("[]").lower(), int(port) if port.isascii() and port.isdigit() else -1


def _own_names() -> set[str]:
    """Names and addresses of this machine."""
    names = {socket.gethostname().lower(), socket.getfqdn().lower()}
    try:
        found = socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        found = []
    for entry in found:
        names.add(str(ipaddress.ip_address(str(entry[4][0]).partition("%")[0])))
    return names
