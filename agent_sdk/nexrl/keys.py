"""Keys: one admin key per deployment, and keys that reach less far, derived from it.

An attempt key `nxr-<attempt>.<signature>` is what an agent holds: it can make model calls and report for its own
attempt, nothing else. Beside it there are `nxk-trainer.<signature>` (plan, lease, judge, read), `nxk-read.<signature>`
(read everything, change nothing) and `nxk-reward:<session>.<signature>` (a grant: reward this one session, next week
perhaps). The signature is HMAC-SHA256 under the admin key, so services that share the admin key agree on all of them
without talking to each other; a new admin key ends them all.
"""

import base64
import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path
from typing import Literal, NamedTuple

from nexrl.errors import AccessError, ConfigError
from nexrl.records import Mode

PREFIX = "nxr-"
DERIVED_PREFIX = "nxk-"
TRAINER, READ, REWARD = "trainer", "read", "reward"
Kind = Literal["admin", "trainer", "read", "attempt", "reward"]
ADMIN_KEY_VARIABLE = "NEXRL_ADMIN_KEY"
ENGINE_KEY_VARIABLE = "NEXRL_ENGINE_KEY"
"""Holds the key of engines that somebody else runs."""
ADMIN_KEY_FILE = "admin.key"
SHORTEST_ADMIN_KEY = 16
EVAL = "@eval"
_ATTEMPT = re.compile(r"[A-Za-z0-9_\-:@]{1,200}")


class Holder(NamedTuple):
    """Whose key it is, and how far it reaches."""

    kind: Kind
    session: str | None = None
    """The one session that an attempt key or a reward grant reaches; None for the other kinds."""


def check_attempt_id(attempt: str) -> str:
    """Return the id unchanged; raises AccessError where it could not stand in a URL, a key or a file name."""
    if not _ATTEMPT.fullmatch(attempt):
        raise AccessError(f"attempt id {attempt[:80]!r}: use 1 to 200 letters, digits, '_', '-', ':' or '@'")
    return attempt


def attempt_key(attempt: str, admin_key: str) -> str:
    """Return the key that lets an agent call the model as `attempt`."""
    check_attempt_id(attempt)
    return f"{PREFIX}{attempt}.{_sign(attempt, admin_key)}"


def attempt_of(key: str, admin_key: str) -> str | None:
    """Return the attempt a key belongs to, or None where it is not an attempt key at all.

    Raises AccessError where it looks like one and its signature is wrong. Compares in constant time.
    """
    if not key.startswith(PREFIX):
        return None
    attempt, _, signature = key[len(PREFIX) :].rpartition(".")
    if not attempt or not hmac.compare_digest(signature.encode(), _sign(attempt, admin_key).encode()):
        raise AccessError("the attempt key's signature is wrong: was it made under another admin key?")
    return attempt


def trainer_key(admin_key: str) -> str:
    """Return the key with which a trainer plans, leases, judges and reads, but reports no model calls."""
    return _derived(TRAINER, admin_key)


def read_key(admin_key: str) -> str:
    """Return the key that reads everything and changes nothing."""
    return _derived(READ, admin_key)


def reward_grant(session: str, admin_key: str) -> str:
    """Return the key that gives rewards to one session and does nothing else."""
    return _derived(f"{REWARD}:{check_attempt_id(session)}", admin_key)


def holder_of(key: str, admin_key: str) -> Holder | None:
    """Return whose key it is, None where it is no key of ours.

    Raises AccessError where it looks like one and its signature is wrong. Compares in constant time.
    """
    if is_admin(key, admin_key):
        return Holder("admin")
    if attempt := attempt_of(key, admin_key):
        return Holder("attempt", attempt)
    if not key.startswith(DERIVED_PREFIX):
        return None
    scope = key[len(DERIVED_PREFIX) :].rpartition(".")[0]
    if not hmac.compare_digest(key.encode(), _derived(scope, admin_key).encode()):
        raise AccessError("the key's signature is wrong: was it made under another admin key?")
    match scope.partition(":"):
        case ("trainer" | "read" as kind, "", ""):
            return Holder(kind)
        case ("reward", ":", session):
            return Holder("reward", session)
        case _:
            return None


def is_admin(key: str, admin_key: str) -> bool:
    """Whether `key` is the admin key, compared in constant time."""
    return hmac.compare_digest(key.encode(), admin_key.encode())


def new_attempt_id(stem: str, mode: Mode = "train") -> str:
    """Return `stem` with 64 random bits behind it; raises AccessError where the stem cannot be part of an id.

    Attempts that evaluate end in `@eval`, so that every service knows what a call is for from the id alone.
    """
    return check_attempt_id(f"{stem}-{secrets.token_hex(8)}{EVAL if mode == 'eval' else ''}")


def mode_of(attempt: str) -> Mode:
    """Return what an attempt's calls are for."""
    return "eval" if attempt.endswith(EVAL) else "train"


def admin_key(directory: Path | None) -> str:
    """Return the admin key: `NEXRL_ADMIN_KEY`, or the one kept in `directory/admin.key` (made there, mode 600).

    Raises ConfigError where there is neither a variable nor a directory, or the key is too short to be one.
    """
    key = os.environ.get(ADMIN_KEY_VARIABLE) or (_kept_key(directory) if directory else "")
    if not key:
        raise ConfigError(
            f"no admin key: set {ADMIN_KEY_VARIABLE} to that of the service; one that was started without it keeps its "
            f"own in its --data directory: export {ADMIN_KEY_VARIABLE}=$(cat DATA/{ADMIN_KEY_FILE})"
        )
    if len(key) < SHORTEST_ADMIN_KEY:
        raise ConfigError(f"{ADMIN_KEY_VARIABLE} has {len(key)} characters: use {SHORTEST_ADMIN_KEY} or more")
    return key


def kept_key_note(directory: Path) -> str | None:
    """Return where the admin key of a service with this data directory lies, for people; None where they gave it."""
    if os.environ.get(ADMIN_KEY_VARIABLE):
        return None
    file = directory / ADMIN_KEY_FILE
    return (
        f"{ADMIN_KEY_VARIABLE} is not set: the admin key is kept in {file}; "
        f"for other services and commands, export {ADMIN_KEY_VARIABLE}=$(cat {file})"
    )


def new_admin_key() -> str:
    """Return a fresh random admin key."""
    return secrets.token_urlsafe(32)


def _kept_key(directory: Path) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ADMIN_KEY_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        file.write(key := new_admin_key())
    return key


def _derived(scope: str, admin_key: str) -> str:
    digest = hmac.digest(admin_key.encode(), b"nexrl-key:" + scope.encode(), hashlib.sha256)
    return f"{DERIVED_PREFIX}{scope}.{base64.urlsafe_b64encode(digest[:18]).decode()}"


def _sign(attempt: str, admin_key: str) -> str:
    digest = hmac.digest(admin_key.encode(), b"nexrl-attempt:" + attempt.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:18]).decode()
