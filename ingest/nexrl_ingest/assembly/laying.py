"""Lay one chain out as a sequence: every array is made at its full length, and each call writes its part.

Pure. Which calls form a chain, and what a chain shares with the one it leaves, is `sequences.py`'s part.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Ordered
from typing import TypeVar

from nexrl.records import Call, Float32s, Int32s, Sequence, Turn
from nexrl.sampling import altered

ArrayT = TypeVar("ArrayT", Int32s, Float32s)
_AT_ONCE = 1024


def laid(prefix: Int32s, chain: Ordered[Call]) -> Sequence:
    """Return the sequence of a chain behind the tokens it shares with another; none of those is trained again."""
    turns = _turns(len(prefix), chain)
    size = turns[-1].end
    ids, mask, versions = _filled(Int32s((0,)), size), _filled(Int32s((0,)), size), _filled(Int32s((-1,)), size)
    logprobs, temperatures = _filled(Float32s((0.0,)), size), _filled(Float32s((1.0,)), size)
    end = len(prefix)
    ids[:end] = prefix
    for call, turn in zip(chain, turns, strict=True):
        start, sampled = turn.start, turn.end - turn.start
        ids[end:start] = call.prompt_delta
        ids[start : turn.end] = call.completion
        end = turn.end
        if call.temperature > 0:
            mask[start:end] = _filled(Int32s((1,)), sampled)
            logprobs[start:end] = call.logprobs
            versions[start:end] = call.weight_versions
            temperatures[start:end] = _filled(Float32s((call.temperature,)), sampled)
    return Sequence(
        ids=ids,
        loss_mask=mask,
        logprobs=logprobs,
        weight_versions=versions,
        temperatures=temperatures,
        calls=[call.id for call in chain],
        agent=chain[0].agent,
        policy=chain[0].policy,
        turns=turns,
    )


def _turns(shared: int, chain: Iterable[Call]) -> list[Turn]:
    """Say where each call's completion stands."""
    turns: list[Turn] = []
    end = shared
    for call in chain:
        start = end + len(call.prompt_delta)
        end = start + len(call.completion)
        turns.append(
            Turn(
                call=call.id,
                start=start,
                end=end,
                agent=call.agent,
                finish_reason=call.finish_reason,
                altered=altered(call.sampling),
            )
        )
    return turns


def _filled(one: ArrayT, size: int) -> ArrayT:
    """Return an array of so many of one value."""
    # By the thousand: arrays are repeated piece by piece, and one that grows with each call is copied again and again.
    made = type(one)(one.tobytes() * _AT_ONCE)
    made *= -(-size // _AT_ONCE)
    del made[size:]
    return made
