"""Put the current session on requests to the proxy, whichever client makes them.

Patched when `instrument` is called, never by an import: httpx, httpx2, requests and aiohttp, and through them the
OpenAI and Anthropic clients and most frameworks. Headers are added to requests that go to the proxy's address, unless
the request has them: the session's, and where the program has OpenTelemetry the current span, so that what it says of
its tools is in the same trace. Nothing else about a request changes, and no other request is touched.
"""

import functools
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from msgspec import Struct

from nexrl.errors import ConfigError
from nexrl.sessions import BASE_URLS, current_session

Origin = tuple[str, str, int | None]
_PORTS = {"http": 80, "https": 443}
_log = logging.getLogger(__name__)


class Instrumented(Struct, frozen=True, kw_only=True):
    """What `instrument` did."""

    libraries: tuple[str, ...] = ()
    """HTTP libraries whose requests are seen to; those that are not installed are not here."""
    addresses: tuple[str, ...] = ()
    """Where requests must go to get headers."""


class _Patch(NamedTuple):
    """A method of ours in place of a library's."""

    owner: type
    name: str
    ours: Any
    theirs: Any


_patches: list[_Patch] = []
_origins: set[Origin] = set()


def instrument(*addresses: str) -> Instrumented:
    """Put the current session on requests to the proxy, from now on and in the whole process.

    Without addresses they are those in OPENAI_BASE_URL, OPENAI_API_BASE and ANTHROPIC_BASE_URL; where there are none
    nothing is patched, which the answer says, and a warning in the log. To be called before an aiohttp session is made;
    the other libraries' clients may exist already. Called again it sees to the new addresses instead. Raises
    ConfigError for an address that is none.
    """
    named = addresses or tuple(dict.fromkeys(filter(None, map(os.environ.get, BASE_URLS))))
    origins = {_checked_origin(address) for address in named}
    uninstrument()
    if not named:
        _log.warning("nothing is instrumented: set OPENAI_BASE_URL, or give the proxy's address to nexrl.instrument")
        return Instrumented()
    _origins.update(origins)
    libraries = [name for name in _LIBRARIES if find_spec(name)]
    for name in libraries:
        for owner, method, wrap in _LIBRARIES[name](import_module(name)):
            _patch(owner, method, wrap)
    return Instrumented(libraries=tuple(libraries), addresses=named)


def uninstrument() -> None:
    """Undo `instrument`: libraries are as they were, and sessions are put on no request. May be called at any time."""
    _origins.clear()
    for patch in _patches:
        # Somebody may have patched over us since; without addresses ours does nothing.
        if getattr(patch.owner, patch.name) is patch.ours:
            setattr(patch.owner, patch.name, patch.theirs)
    _patches.clear()


def attribution_for(url: str) -> dict[str, str]:
    """Return the headers that a request to this URL is to have: none unless it goes to the proxy."""
    try:
        return {**current_session().headers, **_trace()} if origin_of(url) in _origins else {}
    except ValueError:  # an address that only its client can judge
        return {}


def _trace() -> dict[str, str]:
    """Return OpenTelemetry's current span, if there is one, as https://www.w3.org/TR/trace-context/ has it."""
    # Not imported: a program that has not done so has no span.
    opentelemetry = sys.modules.get("opentelemetry.trace")
    if opentelemetry is None:
        return {}
    span = opentelemetry.get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    return {"traceparent": f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags):02x}"}


def origin_of(url: str) -> Origin:
    """Return scheme, host and port, the scheme's own where none is written; raises ValueError for a malformed port."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme)


def _checked_origin(address: str) -> Origin:
    try:
        scheme, host, port = origin_of(address)
    except ValueError as error:
        raise ConfigError(f"address {address!r}: {error}") from error
    if scheme not in _PORTS or not host:
        raise ConfigError(f"address {address!r}: give the proxy's, such as http://127.0.0.1:8000/v1")
    return scheme, host, port


def _patch(owner: type, name: str, wrap: Callable[[Any], Any]) -> None:
    theirs = getattr(owner, name)
    ours = functools.wraps(theirs)(wrap(theirs))
    _patches.append(_Patch(owner, name, ours, theirs))
    setattr(owner, name, ours)


def _missing(headers: Any, url: object) -> dict[str, str]:
    """Return the headers to add: those that the request does not have."""
    return {name: value for name, value in attribution_for(str(url)).items() if name not in headers}


_Methods = Iterable[tuple[type, str, Callable[[Any], Any]]]


def _complete(request: Any) -> None:
    """Add the headers to a request of httpx or httpx2."""
    missing = _missing(request.headers, request.url)
    if missing:
        # As bytes: a value that is set as text is refused where it is not ASCII.
        added = [(name.encode(), value.encode()) for name, value in missing.items()]
        request.headers = type(request.headers)([*request.headers.raw, *added])


def _httpx(library: Any) -> _Methods:
    def wrap(send: Callable[..., Any]) -> Callable[..., Any]:
        def sending(self: Any, request: Any, **options: Any) -> Any:
            _complete(request)
            return send(self, request, **options)

        return sending

    def wrap_async(send: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def sending(self: Any, request: Any, **options: Any) -> Any:
            _complete(request)
            return await send(self, request, **options)

        return sending

    return [(library.Client, "send", wrap), (library.AsyncClient, "send", wrap_async)]


def _requests(library: Any) -> _Methods:
    def wrap(send: Callable[..., Any]) -> Callable[..., Any]:
        def sending(self: Any, request: Any, **options: Any) -> Any:
            # As bytes: text would be sent as Latin-1, the proxy reads UTF-8.
            missing = _missing(request.headers, request.url)
            request.headers.update({name: value.encode() for name, value in missing.items()})
            return send(self, request, **options)

        return sending

    return [(library.Session, "send", wrap)]


def _aiohttp(library: Any) -> _Methods:
    async def started(_session: Any, _context: Any, started: Any) -> None:
        started.headers.update(_missing(started.headers, started.url))

    def wrap(init: Callable[..., None]) -> Callable[..., None]:
        def initialising(self: Any, *arguments: Any, **options: Any) -> None:
            tracing = library.TraceConfig()
            tracing.on_request_start.append(started)
            options["trace_configs"] = [*(options.get("trace_configs") or []), tracing]
            init(self, *arguments, **options)

        return initialising

    return [(library.ClientSession, "__init__", wrap)]


_LIBRARIES: dict[str, Callable[[Any], _Methods]] = {
    "httpx": _httpx,
    "httpx2": _httpx,
    "requests": _requests,
    "aiohttp": _aiohttp,
}
