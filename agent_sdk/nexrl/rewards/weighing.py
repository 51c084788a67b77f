"""From named rewards to the one number that advantages are made of: the reward named `TOTAL`. Pure.

A function says its `weight`; a recipe may say another, by name, and may name rewards that others gave.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from nexrl.errors import RewardError
from nexrl.records import Reward

TOTAL = "total"
"""Name of the weighted sum; nobody else may use it."""
MISJUDGED = "reward "
"""How the reason of a failed rollout begins where its reward functions, and not its agent, are to blame."""
Missing = Literal["fail", "zero"]


class Weighed(Struct, frozen=True):
    """A reward that a function gave, and what it counts in the total."""

    reward: Reward
    weight: float
    function: str
    """Name of the function that gave it."""


def weighed(function: str, weight: float, rewards: Sequence[Reward], weights: Mapping[str, float]) -> list[Weighed]:
    """Give each reward its weight: the recipe's for its own name, for the function's name, or the function's.

    Example: function "tests" of weight 1 gave passed=0.5 and style=1; weights {"style": 0.1} -> 1 and 0.1
    """
    default = weights.get(function, weight)
    return [Weighed(item, weights.get(item.name, default), function) for item in rewards]


def missing_names(judged: Sequence[Weighed], weights: Mapping[str, float]) -> list[str]:
    """Return the names that `weights` has and no function gave to the rollout as a whole: others must have."""
    whole = [item for item in judged if item.reward.call is None]
    found = {item.reward.name for item in whole} | {item.function for item in whole}
    return [name for name in weights if name not in found]


def total(
    judged: Sequence[Weighed], weights: Mapping[str, float], given: Mapping[str, float], missing: Missing = "fail"
) -> list[Reward]:
    """Return all rewards of a rollout, and last their weighted sum under the name `TOTAL`.

    `given` are rewards that others gave, by name; those among `weights` count. Rewards of single calls are no part of
    the sum. Raises RewardError where a name is given twice, is `TOTAL`, or stands in `weights` and nobody gave it.

    Example: tests=0.5 of weight 1; weights {"thumbs": 2}, given {"thumbs": 1} -> tests 0.5, total 2.5
    """
    rewards = [item.reward for item in judged]
    check_names(rewards)
    summed = [item.weight * item.reward.value for item in judged if item.reward.call is None]
    for name in missing_names(judged, weights):
        if any(item.name == name for item in rewards):
            raise RewardError(f"reward {name!r} is one of calls, for algorithm.call_rewards: no rewards.weights for it")
        if name not in given and missing == "fail":
            raise RewardError(f"reward {name!r}: nobody gave it; correct rewards.weights, or set rewards.missing=zero")
        summed.append(weights[name] * given.get(name, 0.0))
    return [*rewards, Reward(name=TOTAL, value=math.fsum(summed))]


def check_names(rewards: Sequence[Reward]) -> None:
    """Raise RewardError where two rewards of a rollout, or of one call of it, have the same name, or one is TOTAL."""
    for (name, _), count in Counter((item.name, item.call) for item in rewards).items():
        if name == TOTAL:
            raise RewardError(f"reward {name!r}: the name is taken by the weighted sum; use another")
        if count > 1:
            raise RewardError(f"reward {name!r} was given {count} times: two functions use the name; change one")
