"""Whose model calls are these? `session` and `agent` say so for the code inside them.

What is said travels with the context: asyncio tasks and `asyncio.to_thread` inherit it, a thread that is started within
`contextvars.copy_context().run` does, a subprocess that is given `Session.environment()` does. A process that somebody
else named (an attempt key, a base URL with `/s/SESSION`, `BAGGAGE`) belongs to that session and opens no other. Nothing
is sent from here: `instrumenting.py` puts it on requests, `emitting.py` addresses rewards by it.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar, Token
from types import TracebackType
from urllib.parse import quote, unquote, urlsplit

from msgspec import Struct, structs

from nexrl import attributes as at
from nexrl.errors import AccessError, ConfigError
from nexrl.keys import PREFIX, check_attempt_id, new_attempt_id

BASE_URLS = ("OPENAI_BASE_URL", "OPENAI_API_BASE", "ANTHROPIC_BASE_URL")
"""Environment variables in which clients look for the address of the model."""
API_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
BAGGAGE = "BAGGAGE"
"""W3C baggage for subprocesses: https://opentelemetry.io/docs/specs/otel/context/env-carriers/."""
_AGENT = "nexrl.agent"
_LONGEST_NAME = 200
_current: ContextVar["Session | None"] = ContextVar("nexrl_session", default=None)


class Session(Struct, frozen=True, kw_only=True):
    """To whom model calls are attributed."""

    id: str | None = None
    """The session they belong to; None where nobody named one."""
    group: str | None = None
    """The key of the sessions that this one is to be compared with."""
    agent: str | None = None
    """The sub-agent that calls."""
    key: str | None = None
    """The session's attempt key, where whoever opened it has one that the process as a whole does not."""

    @property
    def headers(self) -> dict[str, str]:
        """What tells the proxy; for clients that take default headers and are not instrumented."""
        said = {"x-nexrl-session": self.id, "x-nexrl-group": self.group, "x-nexrl-agent": self.agent}
        return {name: value for name, value in said.items() if value}

    def environment(self) -> dict[str, str]:
        """Return this process's environment for a subprocess whose model calls belong to the session.

        The base URLs name the session, so a program in any language is attributed as it is; a key goes with it.
        """
        inherited = dict(os.environ)
        said = {at.SESSION: self.id, at.GROUP: self.group, _AGENT: self.agent}
        members = {name: value for name, value in _members(inherited.get(BAGGAGE, "")) if name not in said}
        members |= {name: quote(value, safe="") for name, value in said.items() if value}
        bases = {name: inherited[name] for name in BASE_URLS if inherited.get(name)}
        if self.id:
            bases = {name: with_session(url, self.id) for name, url in bases.items()}
        keys = dict.fromkeys(API_KEYS, self.key) if self.key else {}
        return {**inherited, **bases, **keys, BAGGAGE: ",".join(f"{name}={value}" for name, value in members.items())}


class Scope(AbstractContextManager[Session], AbstractAsyncContextManager[Session]):
    """Makes a session the current one, in a `with` or an `async with`."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._before: list[Token[Session | None]] = []

    def __enter__(self) -> Session:
        self._before.append(_current.set(self.session))
        return self.session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        _current.reset(self._before.pop())

    async def __aenter__(self) -> Session:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.__exit__(kind, error, trace)


def session(
    named: str | None = None, /, *, group: str | None = None, agent: str | None = None, key: str | None = None
) -> Scope:
    """Attribute the model calls made inside to one session: `with nexrl.session("ticket-17", group="refunds"):`.

    Without a name it is the one that `key` names, else new and unguessable, within another session too; but a process
    that belongs to a session (an agent that a trainer started, say) has only that one. `key` is its attempt key, for
    rewards from inside and for subprocesses. Raises AccessError for a name that cannot be one, or is not the process's
    own, and for a key that is not the session's; ConfigError for a group or agent that cannot stand in a header.
    """
    own = process_session()
    if own.id and named and named != own.id:
        raise AccessError(
            f"session {named!r}: all calls of this process belong to {own.id!r}, as its API key, base URL or "
            "baggage says; leave the name out"
        )
    owner = attempt_named_by(key) if key else None
    name = own.id or check_attempt_id(named or owner or new_attempt_id("session"))
    if key and owner != name:
        whose = f"is that of {owner!r}" if owner else "is no attempt key"
        raise AccessError(f"session {name!r}: the key given {whose}; give what `nexrl key {name}` prints, or none")
    group, agent = _named("group", group) or own.group, _named("agent", agent) or own.agent
    return Scope(Session(id=name, group=group, agent=agent, key=key))


def agent(name: str, /) -> Scope:
    """Name the sub-agent that makes the model calls inside; the session stays as it is.

    Raises ConfigError for a name that cannot stand in a header.
    """
    return Scope(structs.replace(current_session(), agent=_named("agent", name)))


def current_session() -> Session:
    """Return the innermost session, or what the process was started as; its id is None where nobody named one."""
    return _current.get() or process_session()


def process_session(environment: Mapping[str, str] = os.environ) -> Session:
    """Return whom the environment says this process belongs to: by attempt key, base URL or baggage, in this order.

    The key is taken at its word here; whoever receives it checks the signature.
    """
    members = _members(environment.get(BAGGAGE, ""))
    baggage = {name: unquote(value.partition(";")[0]) for name, value in members}
    keys = [attempt_named_by(environment.get(name, "")) for name in API_KEYS]
    urls = [_named_by_url(environment.get(name, "")) for name in BASE_URLS]
    return Session(
        id=next(filter(None, [*keys, *urls]), None) or baggage.get(at.SESSION),
        group=baggage.get(at.GROUP),
        agent=baggage.get(_AGENT),
    )


def attempt_named_by(key: str) -> str | None:
    """Return the attempt that an attempt key names, unchecked; None for every other key."""
    return key[len(PREFIX) :].rpartition(".")[0] or None if key.startswith(PREFIX) else None


def with_session(url: str, session_id: str) -> str:
    """Return a base URL of the proxy that names the session, in place of any that it named.

    Example: http://h:8000/v1 -> http://h:8000/s/SESSION/v1
    """
    parts = urlsplit(url)
    path = re.sub(r"^/s/[^/]+", "", parts.path)
    return parts._replace(path=f"/s/{quote(session_id, safe='')}{path}").geturl()


def _named_by_url(url: str) -> str | None:
    match = re.match(r"/s/([^/]+)", urlsplit(url).path)
    return unquote(match[1]) if match else None


def _members(baggage: str) -> Iterator[tuple[str, str]]:
    for member in filter(None, baggage.split(",")):
        name, _, value = member.partition("=")
        yield name.strip(), value.strip()


def _named(what: str, name: str | None) -> str | None:
    if name is not None and not (name.isprintable() and 1 <= len(name) <= _LONGEST_NAME):
        raise ConfigError(f"{what} {name[:80]!r}: use 1 to {_LONGEST_NAME} printable characters")
    return name
