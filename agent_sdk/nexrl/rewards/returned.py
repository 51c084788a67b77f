"""What a reward function may return, read into rewards. Pure.

    0.5 or True                            one reward, named after the function
    {"tests": 0.75, "style": 1}            named rewards
    PerCall({call.id: 1.0, ...})           rewards of single calls, under the function's name
    {"tests": 0.75, "tool": PerCall(...)}  both
    Verdict(0.5, "half of it is right")    a number with its explanation; also inside a dict

A function with `group=True` returns a list of these, one per rollout.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec import Struct

from nexrl.errors import RewardError
from nexrl.records import Reward

SHOWN = 200
"""Characters of an unusable value that an error shows."""


class PerCall(Struct, frozen=True):
    """Rewards of single model calls; they reach those calls' tokens by the recipe's `algorithm.call_rewards`."""

    values: Mapping[str, float]
    """By call id: `{call.id: ... for call in calls}`."""


class Verdict(Struct, frozen=True):
    """A number, and why."""

    value: float
    explanation: str = ""


def rewards_of(name: str, returned: Any, calls: Collection[str]) -> list[Reward]:
    """Read what function `name` returned for a rollout that made these calls.

    Raises RewardError where there is anything but finite numbers, and for calls that are not among `calls`.
    """
    named: dict[Any, Any] = returned if isinstance(returned, dict) else {name: returned}
    found: list[Reward] = []
    for key, value in named.items():
        if not isinstance(key, str) or not key:
            raise RewardError(f"reward {name!r} returned {_shown(returned)}: names of rewards are texts")
        if isinstance(value, PerCall):
            found += _of_calls(name, key, value, calls)
        else:
            verdict = value if isinstance(value, Verdict) else Verdict(value)
            number = _number(name, verdict.value, returned)
            found.append(Reward(name=key, value=number, explanation=str(verdict.explanation)))
    return found


def rewards_of_group(name: str, returned: Any, calls: Sequence[Collection[str]]) -> list[list[Reward]]:
    """Read what a group function returned: one entry per rollout, in their order."""
    if not isinstance(returned, list | tuple) or len(returned) != len(calls):
        count = f"{len(returned)} values" if isinstance(returned, list | tuple) else _shown(returned)
        raise RewardError(f"reward {name!r} returned {count} for {len(calls)} rollouts: return a list, one for each")
    return [rewards_of(name, value, made) for value, made in zip(returned, calls, strict=True)]


def _of_calls(name: str, key: str, given: PerCall, calls: Collection[str]) -> list[Reward]:
    if unknown := [call for call in given.values if call not in calls]:
        raise RewardError(
            f"reward {name!r} judges call {unknown[0]!r}, which the rollout did not make: "
            "ask for `calls` and use their ids"
        )
    return [Reward(name=key, value=_number(name, value, given), call=call) for call, value in given.values.items()]


def _number(name: str, value: Any, returned: Any) -> float:
    # NumPy's and torch's scalars are no floats, and come from where rewards are computed.
    plain = value.item() if getattr(value, "shape", None) == () else value
    if not isinstance(plain, int | float) or not math.isfinite(plain):
        raise RewardError(
            f"reward {name!r} returned {_shown(returned)}: return a finite number, a bool, a dict of these, "
            "a PerCall or a Verdict"
        )
    return float(plain)


def _shown(value: Any) -> str:
    return repr(value)[:SHOWN]
