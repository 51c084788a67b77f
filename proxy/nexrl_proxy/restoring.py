"""A session as it was, from the calls that ingest has of it: after a restart, or when memory was needed for others.

`session_of` is pure; `Restorer` asks ingest. A session that cannot be read back is one that begins anew: its next call
opens a chain, and nothing is lost but the chain's length.
"""

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import aiohttp
import msgspec
import zstandard
from msgspec import Struct

from nexrl.records import Call, decode
from nexrl_proxy.conversation import Held, Session, after, echoes_of, setting_of, step
from nexrl_proxy.deleted import Deleted
from nexrl_proxy.dialects.responses_stored import stored_of
from nexrl_proxy.errors import ApiError
from nexrl_proxy.messages import Message, normalised
from nexrl_proxy.render import Renderer

TIMEOUT_S = 2.0
SILENCE_S = 10.0
"""An ingest that did not answer in time is not asked for so long: agents wait for it once, not once a session."""
Delivered = Callable[[str, float], Awaitable[object]]
"""Returns once ingest has every span of a session that was recorded here; raises TimeoutError."""
OK = 200
NOT_FOUND = 404
log = logging.getLogger(__name__)


class Restored(Struct):
    """A call read back, and what its continuations begin with."""

    held: Held
    digests: tuple[bytes, ...] = ()
    """Of what was said up to and including its reply, in each of the shapes that `echoes_of` knows."""
    messages: list[Message] = []
    """What the call added: its new messages, and the reply."""
    parent: "Restored | None" = None
    text: str | None = None
    """A raw prompt with its completion, where it came as text."""
    tools: list[dict[str, Any]] | None = None
    """The chain's, as chat tools."""
    tokens: int = 0
    """Length of prompt and completion."""

    def said(self) -> list[Message]:
        """Return the whole conversation, the reply included."""
        parts: list[list[Message]] = []
        link: Restored | None = self
        while link is not None:
            parts.append(link.messages)
            link = link.parent
        return [message for part in reversed(parts) for message in part]


class Restorer:
    """Reads sessions back from ingest."""

    def __init__(
        self,
        *,
        ingest: str,
        admin_key: str,
        renderer: Renderer,
        http: aiohttp.ClientSession,
        deleted: Deleted,
        delivered: Delivered | None = None,
        of: str = "",
    ) -> None:
        """Take `delivered` to wait for spans of the session that are still on their way from here.

        Of a session only the calls `of` this model are read (`Call.policy`).
        """
        self._of = of
        self._delivered = delivered
        self._url = f"{ingest.rstrip('/')}/api/sessions"
        self._headers = {"authorization": f"Bearer {admin_key}"}
        self._renderer = renderer
        self._http = http
        self._deleted = deleted
        self._silent_until = 0.0

    async def session(self, attempt: str) -> Session:
        """Return what ingest knows of a session; an empty one where it knows nothing, or cannot be asked."""
        if time.monotonic() < self._silent_until:
            return Session()
        try:
            if self._delivered:  # what an earlier process left is not with ingest yet
                with contextlib.suppress(TimeoutError):
                    await self._delivered(attempt, TIMEOUT_S)
            calls = [call for call in await self._calls(attempt) if call.policy == self._of]
            return self._without_deleted(session_of(calls, self._renderer))
        except TimeoutError:
            self._silent_until = time.monotonic() + SILENCE_S
            log.warning("session %s cannot be read back and begins a new chain: ingest is silent", attempt)
        except (aiohttp.ClientError, OSError, msgspec.DecodeError, zstandard.ZstdError) as error:
            log.warning("session %s cannot be read back and begins a new chain: %s", attempt, error)
        return Session()

    def delete(self, response: str) -> None:
        """Let no session that is read back have a reply again; raises ApiError where that cannot be kept."""
        self._deleted.add(response)

    def _without_deleted(self, session: Session) -> Session:
        for response in filter(self._deleted.__contains__, list(session.responses)):
            session.store(response, None)
        return session

    async def _calls(self, attempt: str) -> list[Call]:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        url = f"{self._url}/{attempt}/calls"
        # aiohttp unpacks zstd only where an optional package is installed.
        async with self._http.get(url, headers=self._headers, timeout=timeout, auto_decompress=False) as reply:
            if reply.status == NOT_FOUND:
                return []
            if reply.status != OK:
                raise aiohttp.ClientError(f"HTTP {reply.status}")
            body = await reply.read()
            if reply.headers.get("content-encoding") == "zstd":
                body = zstandard.decompress(body)
            return decode(body, list[Call])


def session_of(calls: Iterable[Call], renderer: Renderer) -> Session:
    """Return the session that these calls, parents before their children, made."""
    session = Session()
    known: dict[str, Restored] = {}
    for call in calls:
        if not call.exact or (call.parent is not None and call.parent not in known):
            continue
        parent = known[call.parent] if call.parent else None
        held = held_of(call, parent.held if parent else None, renderer)
        try:
            if call.dialect == "completions":
                known[call.id] = _raw(session, call, held, parent, renderer)
            else:
                known[call.id] = _said(session, call, held, parent)
        except ApiError as error:  # recorded by another version, perhaps
            log.warning("call %s of %s is not continued: %s", call.id, call.session, error)
    return session


def held_of(call: Call, parent: Held | None, renderer: Renderer) -> Held:
    """Return what a session keeps of a call."""
    # Whatever the engine says: where no token ends a reply, its last one may be that token all the same.
    ended = bool(call.completion) and call.completion[-1] in renderer.eos
    return Held(
        id=call.id,
        parent=parent,
        prompt_delta=call.prompt_delta,
        completion=call.completion,
        tool_calls=call.reply.get("tool_calls"),
        ended=ended,
        stopped="" if ended or call.finish_reason != "stop" else stop_in(renderer, call),
    )


def stop_in(renderer: Renderer, call: Call) -> str:
    """Return the stop string that stands first in what was sampled; "" where there is none."""
    stops = [stop for stop in call.sampling.get("stop") or () if stop]
    said = renderer.text(call.completion) if stops else ""
    return min((stop for stop in stops if stop in said), key=said.find, default="")


def _said(session: Session, call: Call, held: Held, parent: Restored | None) -> Restored:
    echoes = echoes_of(call.reply, held.stopped)
    before = parent.digests if parent else (setting_of(call.tools, call.template),) * len(echoes)
    new = normalised(call.messages)
    asked = [after(digest, new) for digest in before]
    for digest in dict.fromkeys(asked):
        session.hold(digest, held, call.reply)
    digests = tuple(map(step, asked, echoes))
    prompt = (parent.tokens if parent else 0) + len(call.prompt_delta)
    restored = Restored(
        held,
        digests,
        messages=[*call.messages, call.reply],
        parent=parent,
        tools=parent.tools if parent else call.tools,
        tokens=prompt + len(call.completion),
    )
    if call.stored:
        session.store(call.response, stored_of(call, restored.said(), restored.tools, prompt_tokens=prompt))
    return restored


def _raw(session: Session, call: Call, held: Held, parent: Restored | None, renderer: Renderer) -> Restored:
    """Hold a raw call. Its prompt is the one message of a text, or no message but token ids."""
    text: str | None = None
    if call.messages:
        before = (parent.text if parent else None) or ""
        text = before + call.messages[0]["content"] + renderer.text(call.completion)
    session.hold_raw(held, text)
    return Restored(held, text=text)
