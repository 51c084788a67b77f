"""Give a reward or a tag to a session, from inside an agent or from an application, now or next week.

An agent reaches its own session with the key it calls the model with; an application needs a grant, or the admin key,
from which a grant for the one session is derived here: no other key of it is sent. Who may say what is ingest's part.
"""

import functools
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import msgspec

from nexrl.errors import AccessError, ConfigError, NexrlError, ServiceError
from nexrl.keys import ADMIN_KEY_VARIABLE, reward_grant
from nexrl.sessions import API_KEYS, attempt_named_by, current_session

INGEST_VARIABLE = "NEXRL_INGEST_URL"
"""Holds the address of ingest; agents that a trainer starts find it set."""
PAUSES_S = (0.2, 1.0)
"""Between tries, where ingest is away or asks for patience."""
TIMEOUT_S = 5.0
"""Of one try."""
_DENIED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
"""Refusals that are worth another try, besides a server's own failures (5xx)."""
_log = logging.getLogger(__name__)
_said: set[type[NexrlError]] = set()


def emit_reward(
    name: str,
    value: float,
    *,
    session: str | None = None,
    call: str | None = None,
    by: str | None = None,
    id: str | None = None,  # noqa: A002 - as ingest's route calls it
    explanation: str = "",
    at_ns: int = 0,
    url: str | None = None,
    key: str | None = None,
    required: bool = False,
) -> bool:
    """Give the current session, or the one named, a reward; return whether ingest has it, on disk.

    `call` judges one model call of it, by the id of its reply or by its id in ingest. Sent again with the same `id` a
    reward is kept once; where none is given there is a new one, so that our own tries count once. `by` is who judged (a
    user's name, say); `at_ns` when, Unix time in nanoseconds, which only a trainer's key may say. Ingest is at `url` or
    NEXRL_INGEST_URL.

    A reward that cannot be delivered is said in the log, once for each kind of error, and harms nobody; with `required`
    it raises instead: ConfigError (value, address, refused), AccessError (no key, not allowed), ServiceError (away).
    """
    return _say(
        "rewards", lambda: _body(name, value, call, by, id, explanation, at_ns), session, url, key, required=required
    )


def tag(
    name: str,
    value: str,
    *,
    session: str | None = None,
    url: str | None = None,
    key: str | None = None,
    required: bool = False,
) -> bool:
    """Tag the current session, or the one named: `nexrl.tag("variant", "b")`; return whether ingest has it, on disk.

    Of one name the latest counts. A recipe learns from sessions with the tags it names, `nexrl sessions` shows them.
    What else is given, and what becomes of one that cannot be delivered, is as with `emit_reward`.
    """
    return _say("tags", lambda: _tag_body(name, value), session, url, key, required=required)


async def emit_reward_async(name: str, value: float, **options: Any) -> bool:
    """Do as `emit_reward`, with its options, without blocking the event loop."""
    # Here, for a light `import nexrl`; whoever awaits this has it loaded.
    import asyncio

    return await asyncio.to_thread(functools.partial(emit_reward, name, value, **options))


def _say(
    what: str, body: Callable[[], bytes], session: str | None, url: str | None, key: str | None, *, required: bool
) -> bool:
    """Post to the session's `what`; return whether it arrived, and raise why not where it is required."""
    try:
        named = session or current_session().id
        address, content = _address(what, url, named), body()
        _deliver(address, content, key or _key_for(named or ""))
    except NexrlError as error:
        if required:
            raise
        _say_once(error)
        return False
    return True


def _address(what: str, url: str | None, session: str | None) -> str:
    if not session:
        raise AccessError("whose reward or tag is it? Open a `nexrl.session()`, or name one with `session=`")
    base = url or os.environ.get(INGEST_VARIABLE)
    if not base or not base.startswith(("http://", "https://")):
        raise ConfigError(f"no address of ingest ({base!r}): set {INGEST_VARIABLE}, or give it with `url=`")
    return f"{base.rstrip('/')}/api/sessions/{quote(session, safe='')}/{what}"


def _body(
    name: str, value: float, call: str | None, by: str | None, given: str | None, explanation: str, at_ns: int
) -> bytes:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"reward {name!r} is {value!r}: give a finite number")
    said = {"call": call, "by": by, "explanation": explanation, "at_ns": at_ns}
    optional = {field: item for field, item in said.items() if item}
    try:
        return msgspec.json.encode({"name": name, "value": number, "id": given or secrets.token_hex(16), **optional})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"reward {name!r}: {error}") from error


def _tag_body(name: str, value: str) -> bytes:
    try:
        return msgspec.json.encode({"name": name, "value": value})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"tag {name!r}: {error}") from error


def _key_for(session: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the key with which to reward a session: the agent's own, else a grant derived from the admin key."""
    for key in (current_session().key or "", *(environment.get(name, "") for name in API_KEYS)):
        if attempt_named_by(key) == session:
            return key
    if admin := environment.get(ADMIN_KEY_VARIABLE):
        return reward_grant(session, admin)
    raise AccessError(
        f"no key that reaches session {session!r}: give key= what `nexrl key --reward {session}` prints, "
        f"or set {ADMIN_KEY_VARIABLE} where no agent runs"
    )


def _deliver(address: str, body: bytes, key: str) -> None:
    """Post until it is kept or refused; raises what `emit_reward` says."""
    for pause_s in (*PAUSES_S, None):
        try:
            return _post(address, body, key)
        except ServiceError:
            if pause_s is None:
                raise
            time.sleep(pause_s)
    return None


def _post(address: str, body: bytes, key: str) -> None:
    # Here, for the same reason: they bring all of email and ssl.
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    try:
        request = Request(address, data=body, headers=headers, method="POST")  # noqa: S310 - `_address` looked
        with urlopen(request, timeout=TIMEOUT_S) as reply:  # noqa: S310
            reply.read()
    except HTTPError as error:
        with error:
            said = error.read(2000).decode(errors="replace")
        raise _kind(error.code)(f"{address}: {error.code}: {said}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise ServiceError(f"{address}: {error}") from error


def _kind(status: int) -> type[NexrlError]:
    if status in _DENIED:
        return AccessError
    return ServiceError if status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR else ConfigError


def _say_once(error: NexrlError) -> None:
    if type(error) not in _said:
        _said.add(type(error))
        _log.warning("a reward or tag is lost, and so may others be, unsaid: %s", error)
