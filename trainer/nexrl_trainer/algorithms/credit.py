"""Rewards of single calls: what each call of a chain is worth beyond its rollout's advantage.

Pure. DeepSeekMath, arXiv 2402.03300, section 4.1.3 (process supervision), with a discount: rewards of a group's calls
are centred on their mean, for GRPO divided by their standard deviation, and a call's tokens receive the discounted sum
from that call to the end of its chain.
"""

import math
from collections.abc import Sequence

from nexrl_trainer.algorithms.advantages import scaled

Chain = Sequence[float | None]
"""The reward of each call of a chain, first to last; None where nobody gave one."""


def call_advantages(chains: Sequence[Chain], *, discount: float, divided: bool) -> list[list[float]]:
    """Return what each call of each chain of a group adds to its tokens' advantage.

    Example, not divided, discount 0.5: [1 - 0] [0 -] where - is None. The mean is 1/3, so centred [2/3 0 -1/3]
    [-1/3 0]; summed from the end [7/12 -1/6 -1/3] [-1/3 0].
    """
    given = [reward for chain in chains for reward in chain if reward is not None]
    mean = math.fsum(given) / len(given) if given else 0.0
    centred = [reward - mean for reward in given]
    values = iter(scaled(centred) if divided else centred)
    steps = [[0.0 if reward is None else next(values) for reward in chain] for chain in chains]
    return [returns(chain, discount) for chain in steps]


def returns(rewards: Sequence[float], discount: float) -> list[float]:
    """G_k = r_k + discount G_(k+1).

    Example: rewards 0 0 1, discount 0.5 -> 0.25 0.5 1
    """
    summed: list[float] = []
    following = 0.0
    for reward in reversed(rewards):
        following = reward + discount * following
        summed.append(following)
    return summed[::-1]


def overlong_penalty(tokens: int, limit: int, buffer: int) -> float:
    """0 up to limit - buffer, then growing evenly to 1 at the limit. DAPO, arXiv 2503.14476, equation 13, negated.

    Example: limit 10, buffer 4 -> 6 tokens 0, 8 tokens 0.5, 12 tokens 1
    """
    return min(max((tokens - (limit - buffer)) / buffer, 0.0), 1.0)
