"""Ask a server that may be busy, restarting or out of reach: again and again, and tell people when it takes long.

What is answered with a refusal is not asked again. One `Patience` is shared by all who ask the same server, so that
an outage is told once.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TypeVar

import httpx2
import msgspec
from lightkube.core.exceptions import ConfigError as CredentialsError
from lightkube.models.meta_v1 import Status

T = TypeVar("T")
FIRST_S, LONGEST_S = 0.2, 10.0
"""How long the first and the longest pause is; each is twice the one before, less up to half."""
ASKED_S = 60.0
"""Longest pause that a server may ask for."""
SAY_AFTER_S = 10.0
NEVER = float("inf")
PASSES = {HTTPStatus.GONE, HTTPStatus.TOO_MANY_REQUESTS, 500, 502, 503, 504}
"""Statuses that may be others next time. 410 ends a list, or a watch, that took too long: it begins again."""


class EventError(Exception):
    """A watch that brought an error in place of an event."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


TROUBLE = (httpx2.TransportError, httpx2.HTTPStatusError, EventError, CredentialsError, msgspec.DecodeError)
"""What asking may raise: no answer, a status, no credentials from a plugin, an answer from somebody else."""


class Patience:
    """Asks, and waits; `say` hears of a long outage and of its end."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._since: float | None = None
        self._told = False

    async def ask(
        self, question: Callable[[], Awaitable[T]], *, within_s: float = NEVER, answered_s: float = NEVER
    ) -> T:
        """Return the answer.

        Raises ValueError, with the server's words, where it refuses, or has said for `answered_s` that it fails, which
        being out of reach is not; what went wrong at last where `within_s` is over.
        """
        began, failures, failing = time.monotonic(), 0, None
        while True:
            try:
                answer = await question()
            except TROUBLE as error:
                if not passes(error):
                    self.answered()
                    raise ValueError(in_words(error)) from error
                pause_s = self.failed(error, failures)
                next_at = time.monotonic() + pause_s
                if next_at - began > within_s:
                    raise
                failing = (failing or time.monotonic()) if said(error) else None
                if failing and next_at - failing > answered_s:
                    raise ValueError(in_words(error)) from error
                await asyncio.sleep(pause_s)
                failures += 1
            else:
                self.answered()
                return answer

    def failed(self, error: Exception, failures: int) -> float:
        """Take note of a failure after so many others; return how long to wait."""
        now = time.monotonic()
        self._since = self._since or now
        if not self._told and now - self._since >= SAY_AFTER_S:
            self._told = True
            self._say(f"the cluster's API server cannot be asked ({in_words(error)}); agents wait for it")
        return pause(error, failures)

    def answered(self) -> None:
        """Take note that it answers."""
        if self._told:
            self._say("the cluster's API server answers again")
        self._since, self._told = None, False


def passes(error: Exception) -> bool:
    """Whether it may be otherwise next time."""
    return status_of(error) in PASSES or not isinstance(error, httpx2.HTTPStatusError | EventError)


def status_of(error: Exception) -> int:
    """Return the HTTP status that was answered, or that an event of a watch brought; 0 where there is none."""
    if isinstance(error, EventError):
        return error.status.code or 0
    return error.response.status_code if isinstance(error, httpx2.HTTPStatusError) else 0


def pause(error: Exception, failures: int) -> float:
    """Return how long to wait after a failure: what the server asks for, or longer each time, in seconds."""
    asked = error.response.headers.get("retry-after", "") if isinstance(error, httpx2.HTTPStatusError) else ""
    if asked.isdigit():
        return min(float(asked), ASKED_S)
    return min(FIRST_S * 2 ** min(failures, 10), LONGEST_S) * random.uniform(0.5, 1)  # noqa: S311 - nothing to guess


def in_words(error: Exception) -> str:
    """Return what a server said, or what kept it from saying anything, in one line."""
    words = f"{type(error).__name__}: {error}"
    if isinstance(error, EventError):
        words = error.status.message or f"status {error.status.code}"
    elif isinstance(error, httpx2.HTTPStatusError):
        words = said(error) or f"{error.response.status_code} {error.response.text[:200]}"
    return " ".join(words.split())


def said(error: Exception) -> str:
    """Return the message of a Status that was answered; empty where there is none: proxies in between have none."""
    if not isinstance(error, httpx2.HTTPStatusError):
        return ""
    try:
        return msgspec.json.decode(error.response.content, type=Status).message or ""
    except msgspec.DecodeError:
        return ""
