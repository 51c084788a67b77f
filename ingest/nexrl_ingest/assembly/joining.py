"""Find the call that a call extends where nobody named it: the longest exact token prefix among the session's calls.

Pure. Whoever names a parent is believed, and a named parent that is late is waited for: without it the prompt is
unknown. Everybody else's whole prompt is here, and is compared with what every call of the session ends in that the
same model sampled.

Linear in tokens: a digest runs along each chain and along each prompt, and is looked at where some call ends.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import NamedTuple

from msgspec import structs

from nexrl.records import Call

_DIGEST_BYTES = 16
Children = Mapping[str | None, list[Call]]


class _End(NamedTuple):
    """Where a call's prompt and completion end."""

    length: int
    """Tokens from the start of the conversation."""
    digest: bytes


def joined(heads: Iterable[Call], children: Children) -> dict[str, Call]:
    """Return the heads that extend a call, by id: each with its parent, and without the tokens that this one has.

    `children` are all calls whose tokens are known, by named parent, parents before their children. Of several calls
    that end in the same tokens the earliest is extended. A call that sampled nothing is extended by none: with it the
    next prompt need not be longer, and nothing is shared that the prompt does not have itself.

    Example: P1 -> C1 and P1 C1 E1 -> C2, both without a parent: the second becomes E1 -> C2, extending the first.
    """
    heads = list(heads)
    if len(heads) < 2:  # noqa: PLR2004 - one call has nobody else to extend
        return {}
    ends = _ends(children)
    lengths = sorted({end.length for end in ends})
    found: dict[str, Call] = {}
    for head in heads:
        if parent := _longest(head, ends, lengths):
            length, call = parent
            rest = head.prompt_delta[length:]
            found[head.id] = structs.replace(head, parent=call, prompt_delta=type(head.prompt_delta)(rest))
    return found


def _ends(children: Children) -> dict[_End, str]:
    """Return which call ends where, the earliest of those that end in the same tokens."""
    first: dict[_End, tuple[int, str]] = {}
    reached: dict[str, tuple[int, blake2b]] = {}
    for parent, calls in children.items():
        for call in calls:
            length, running = reached[parent] if parent else (0, _beginning(call))
            running = running.copy()
            running.update(call.prompt_delta.tobytes())
            running.update(call.completion.tobytes())
            length += len(call.prompt_delta) + len(call.completion)
            reached[call.id] = (length, running)
            if call.completion:
                end, order = _End(length, running.digest()), (call.started_ns, call.id)
                first[end] = min(first.get(end, order), order)
    return {end: id_ for end, (_, id_) in first.items()}


def _beginning(call: Call) -> blake2b:
    """Return the digest of no tokens yet: what two models say in the same tokens is not the same."""
    return blake2b(call.policy.encode(), digest_size=_DIGEST_BYTES)


def _longest(head: Call, ends: Mapping[_End, str], lengths: list[int]) -> tuple[int, str] | None:
    """Return the length and the id of the longest call that a prompt begins with."""
    running, position, width = _beginning(head), 0, head.prompt_delta.itemsize
    prompt = memoryview(head.prompt_delta.tobytes())
    best: tuple[int, str] | None = None
    for length in lengths[: bisect_right(lengths, len(head.prompt_delta))]:
        running.update(prompt[position * width : length * width])
        position = length
        if id_ := ends.get(_End(length, running.digest())):
            best = (length, id_)
    return best
