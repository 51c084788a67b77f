"""Join calls into chains and chains into sequences.

Pure: no clock, no store, no tokenizer. Which call extends which where nobody says so is found in `joining.py`; what a
group of trajectories is worth is the trainer's to decide.

Every sampled token of every exact call with a temperature above 0 is trained exactly once, and no other token is.
The order of arrival never matters; the cost is linear in the tokens of the sequences that come out.
"""

from collections import Counter, deque
from collections.abc import Iterable
from collections.abc import Sequence as Ordered

from msgspec import structs

from nexrl.records import (
    GREEDY,
    INEXACT,
    MISSING_PARENT,
    Call,
    Drift,
    Int32s,
    Outcome,
    Reward,
    Sequence,
    Trajectory,
    encode,
)
from nexrl_ingest.assembly import laying
from nexrl_ingest.assembly.joining import joined

Children = dict[str | None, list[Call]]


def chains(calls: Iterable[Call]) -> list[list[Call]]:
    r"""Split the calls that can be laid out into chains; each call is in one.

    Of several calls that extend the same parent the first continues its chain, every other one heads a new chain.
    Left out: inexact calls, calls whose ancestors are not all here, and calls that neither sampled a token nor lead
    to one that did.

    Example (a child is written under its parent):
        a - b - d
          \ c
        => [a, b, d] and [c]
    """
    children = _joined(_children(calls))
    leading = _leading_to_tokens(children)
    kept = {parent: [call for call in found if call.id in leading] for parent, found in children.items()}
    laid: list[list[Call]] = []
    heads = deque(kept.get(None, []))
    while heads:
        chain = [heads.popleft()]
        while following := kept.get(chain[-1].id):
            chain.append(following[0])
            heads.extend(following[1:])
        laid.append(chain)
    return laid


def sequences(calls: Iterable[Call]) -> list[Sequence]:
    """Lay every chain out for training, in order of the first call of each.

    Example (P prompt, C completion, E environment):
        turn 0   P1        -> C1
        turn 1   P1 C1 E1  -> C2    extends turn 0
        turn 1'  P1 C1 E2  -> C3    extends turn 0 too
        => ids P1 C1 E1 C2, mask 0 1 0 1   and   ids P1 C1 E2 C3, mask 0 0 0 1
    """
    ids: dict[str, tuple[Int32s, int]] = {}
    """Per call: its chain's tokens, and how many of them are its prompt and completion."""
    found: list[tuple[tuple[int, str], Sequence]] = []
    for chain in chains(calls):
        head = chain[0]
        tokens, shared = ids[head.parent] if head.parent else (Int32s(), 0)
        sequence = laying.laid(Int32s(tokens[:shared]), chain)
        ids |= {turn.call: (sequence.ids, turn.end) for turn in sequence.turns}
        found.append((_order(head), sequence))
    return [sequence for _, sequence in sorted(found, key=lambda item: item[0])]


def drift(calls: Iterable[Call]) -> list[Drift]:
    """Say which calls opened a new chain or cannot be trained, and why; those of other models never could be."""
    ordered = [call for call in _ordered(calls) if not call.other_model]
    reachable = {call.id for found in _children(ordered).values() for call in found}
    found: list[Drift] = []
    for call in ordered:
        reasons = (
            call.drift,
            INEXACT if not call.exact else None,
            MISSING_PARENT if call.exact and call.id not in reachable else None,
            GREEDY if call.temperature <= 0 else None,
        )
        found.extend(Drift(call=call.id, reason=reason) for reason in reasons if reason)
    return found


def trajectory(
    session: str, rollout: int | None, calls: Ordered[Call], rewards: list[Reward], outcome: Outcome | None
) -> Trajectory:
    """Return what a trainer receives for one attempt."""
    return Trajectory(
        session=session,
        rollout=rollout,
        status=outcome.status if outcome else "open",
        reason=outcome.reason if outcome else "",
        rewards=addressed(rewards, calls),
        sequences=sequences(calls),
        drift=drift(calls),
    )


def addressed(rewards: Iterable[Reward], calls: Iterable[Call]) -> list[Reward]:
    """Return the rewards with the call that each judges by its own id, where it was named by that of its reply.

    Clients see the reply's id alone. One that several calls share, the choices of one request, names none of them.
    """
    calls = list(calls)
    ids, replies = {call.id for call in calls}, Counter(call.response for call in once(calls))
    named = {call.response: call.id for call in calls if replies[call.response] == 1}
    return [
        structs.replace(reward, call=named[reward.call])
        if reward.call and reward.call not in ids and reward.call in named
        else reward
        for reward in rewards
    ]


def prompt_lengths(calls: Iterable[Call]) -> dict[str, int]:
    """Return the whole prompt's number of tokens per call, for calls whose ancestors are all here."""
    lengths: dict[str, int] = {}
    ends: dict[str | None, int] = {None: 0}
    for parent, found in _children(calls).items():
        for call in found:
            lengths[call.id] = ends[parent] + len(call.prompt_delta)
            ends[call.id] = lengths[call.id] + len(call.completion)
    return lengths


def extended(calls: Iterable[Call]) -> dict[str, str]:
    """Return which call each call extends, named or found by its tokens; without those that head a chain."""
    laid = _joined(_children(calls))
    return {call.id: call.parent for found in laid.values() for call in found if call.parent}


def parents_first(calls: Iterable[Call]) -> list[Call]:
    """Return the exact calls whose ancestors are all here, each after its parent."""
    return [call for found in _children(calls).values() for call in found]


def once(calls: Iterable[Call]) -> list[Call]:
    """Return every call once, in order of start."""
    return _ordered(calls)


def _joined(children: Children) -> Children:
    """Let calls without a named parent extend the call whose tokens their prompt begins with."""
    found = joined(children.get(None, []), children)
    if not found:
        return children
    return _reached(found.get(call.id, call) for calls in children.values() for call in calls)


def _order(call: Call) -> tuple[int, str]:
    return (call.started_ns, call.id)


def _ordered(calls: Iterable[Call]) -> list[Call]:
    """Order calls by start, each id once; of two contents under one id the same one wins however they arrived."""
    first: dict[str, Call] = {}
    for call in calls:
        known = first.get(call.id)
        if known is None or (known != call and encode(call) < encode(known)):
            first[call.id] = call
    return sorted(first.values(), key=_order)


def _children(calls: Iterable[Call]) -> Children:
    """Return the exact calls that can be reached from a chain's start, by parent, every parent before its children.

    A call that is its own ancestor is reached from no start, so a cycle is left out like a lost parent.
    """
    return _reached(call for call in _ordered(calls) if call.exact)


def _reached(calls: Iterable[Call]) -> Children:
    by_parent: Children = {}
    for call in sorted(calls, key=_order):
        by_parent.setdefault(call.parent, []).append(call)
    reached: Children = {}
    parents: deque[str | None] = deque([None])
    while parents:
        parent = parents.popleft()
        if found := by_parent.get(parent):
            reached[parent] = found
            parents.extend(call.id for call in found)
    return reached


def _leading_to_tokens(children: Children) -> set[str]:
    """Return the calls that sampled a token, and their ancestors."""
    leading: set[str] = set()
    for parent, found in reversed(children.items()):
        leading.update(call.id for call in found if call.completion)
        if parent and any(call.id in leading for call in found):
            leading.add(parent)
    return leading
