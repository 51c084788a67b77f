"""A session as it was, from the calls that ingest has of it: after a restart, or when memory was needed for others.

`session_of` is pure; `Restorer` asks ingest. A session that cannot be read back is one that begins anew: its next call
opens a chain, and nothing is lost but the chain's length.
"""

import logging
from collections.abc import Iterable

import aiohttp
import msgspec
from msgspec import Struct

from nexrl.records import Call, decode
from nexrl_proxy.conversation import Held, Session, after, echoes_of, setting_of, step
from nexrl_proxy.errors import ApiError
from nexrl_proxy.messages import Message, normalised

TIMEOUT_S = 5.0
OK = 200
NOT_FOUND = 404
log = logging.getLogger(__name__)


class Restored(Struct):
    """A call read back, and what its continuations begin with."""

    held: Held
    digests: tuple[bytes, bytes] = (b"", b"")
    """Of what was said up to and including its reply, in both of the shapes `echoes_of` knows."""
    messages: list[Message] = []
    """The same as messages, where a request may go on by the reply's id."""
    text: str = ""
    """A raw prompt with its completion."""


class Restorer:
    """Reads sessions back from ingest."""

    def __init__(self, *, ingest: str, admin_key: str, eos: frozenset[int], http: aiohttp.ClientSession) -> None:
        self._url = f"{ingest.rstrip('/')}/api/sessions"
        self._headers = {"authorization": f"Bearer {admin_key}"}
        self._eos = eos
        self._http = http

    async def session(self, attempt: str) -> Session:
        """Return what ingest knows of a session; an empty one where it knows nothing, or cannot be asked."""
        try:
            return session_of(await self._calls(attempt), self._eos)
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as error:
            log.warning("session %s cannot be read back and begins a new chain: %s", attempt, error)
            return Session()

    async def _calls(self, attempt: str) -> list[Call]:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        url = f"{self._url}/{attempt}/calls"
        async with self._http.get(url, headers=self._headers, timeout=timeout) as reply:
            if reply.status == NOT_FOUND:
                return []
            if reply.status != OK:
                raise aiohttp.ClientError(f"HTTP {reply.status}")
            return decode(await reply.read(), list[Call])


def session_of(calls: Iterable[Call], eos: frozenset[int]) -> Session:
    """Return the session that these calls, parents before their children, made."""
    session = Session()
    known: dict[str, Restored] = {}
    for call in calls:
        if not call.exact or (call.parent is not None and call.parent not in known):
            continue
        parent = known[call.parent] if call.parent else None
        held = held_of(call, parent.held if parent else None, eos)
        try:
            known[call.id] = (_raw if call.dialect == "completions" else _said)(session, call, held, parent)
        except ApiError as error:  # recorded by another version, perhaps
            log.warning("call %s of %s is not continued: %s", call.id, call.session, error)
    return session


def held_of(call: Call, parent: Held | None, eos: frozenset[int]) -> Held:
    """Return what a session keeps of a call."""
    return Held(
        id=call.id,
        parent=parent,
        prompt_delta=call.prompt_delta,
        completion=call.completion,
        tool_calls=call.reply.get("tool_calls"),
        ended=call.finish_reason == "stop" and bool(call.completion) and call.completion[-1] in eos,
    )


def _said(session: Session, call: Call, held: Held, parent: Restored | None) -> Restored:
    before = parent.digests if parent else (setting_of(call.tools, call.template),) * 2
    new = normalised(call.messages)
    asked = [after(digest, new) for digest in before]
    for digest in asked:
        session.hold(digest, held, call.reply)
    whole, short = echoes_of(call.reply)
    messages: list[Message] = []
    if call.dialect == "responses":
        said = [*parent.messages, *call.messages] if parent else call.messages[call.instructed :]
        messages = session.responses[call.response] = [*said, call.reply]
    return Restored(held, (step(asked[0], whole), step(asked[1], short)), messages)


def _raw(session: Session, call: Call, held: Held, parent: Restored | None) -> Restored:
    said = "".join(message["content"] for message in call.messages)
    text = (parent.text if parent else "") + said
    return Restored(held, text=session.hold_raw(held, text, call.reply))
