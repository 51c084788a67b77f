"""Which KV slot a new request takes, and how much of its prompt is there already.

Pure. `scheduler.py` keeps the slots; `cache.py` moves the rows.
"""

from collections.abc import Sequence

from msgspec import Struct

WORTH_WAITING = 32
"""Tokens: a request waits for a neighbour that is about to compute this much more of their common prefix."""


class Slot(Struct, frozen=True):
    """What one slot holds."""

    index: int
    ids: Sequence[int]
    """Tokens of the request in it, or of the last one."""
    cached: int
    """How many of `ids` have their keys and values in the slot."""
    busy: bool
    used: int
    """When it was last taken; the smallest is the first to be forgotten."""


class Placement(Struct, frozen=True):
    slot: int
    source: int
    """Where the reused rows are; copied when it is another slot."""
    reused: int


def place(prompt: Sequence[int], slots: Sequence[Slot]) -> Placement | None:
    """Choose a slot for `prompt`; None where the request should wait.

    It waits where no slot is idle, or where a running request is about to compute a prefix they share: the rollouts of
    a group arrive together, and one of them computes the prompt for all.

    Example: idle slots 0 [1 2 3 4], 1 []; prompt 1 2 3 4 5 extends slot 0 in place and reuses 4 tokens;
    prompt 1 9 copies 1 token to slot 1, because taking slot 0 would lose 3 tokens to save one.
    """
    idle = [slot for slot in slots if not slot.busy]
    if not idle:
        return None
    usable = len(prompt) - 1  # the last prompt token is always computed: its logits are what is sampled from
    shared = {slot.index: min(shared_prefix(prompt, slot.ids), usable) for slot in slots}
    reusable = {slot.index: min(shared[slot.index], slot.cached) for slot in slots}
    best = max(slots, key=lambda slot: (reusable[slot.index], not slot.busy, -slot.index))
    reused = reusable[best.index]
    if any(slot.busy and shared[slot.index] - reused >= WORTH_WAITING for slot in slots):
        return None
    if not best.busy and 2 * reused >= best.cached and reused:
        return Placement(slot=best.index, source=best.index, reused=reused)
    target = min(idle, key=lambda slot: (slot.cached > 0, slot.used, slot.index))
    return Placement(slot=target.index, source=best.index, reused=reused)


def shared_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many leading tokens two sequences share."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low
