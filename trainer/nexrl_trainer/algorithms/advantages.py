"""From the rewards of a group to one advantage per rollout.

Pure. A failed rollout has no reward and takes no part: neither in the baseline nor in the update.
"""

import math
from collections.abc import Callable, Sequence

EPSILON = 1e-6
"""Keeps the division defined; a group whose rewards are all equal has advantage 0 before it matters."""


def dr_grpo(rewards: Sequence[float]) -> list[float]:
    """A_i = r_i - mean(r). Dr. GRPO, arXiv 2503.20783, section 3.2.

    Example: 1 0 0 1 -> 0.5 -0.5 -0.5 0.5
    """
    mean = math.fsum(rewards) / len(rewards) if rewards else 0.0
    return [reward - mean for reward in rewards]


def grpo(rewards: Sequence[float]) -> list[float]:
    """A_i = (r_i - mean(r)) / (std(r) + eps), std over the group. DeepSeekMath, arXiv 2402.03300, section 4.1.2.

    Example: 1 0 0 1 -> 1 -1 -1 1 (up to eps)
    """
    centred = dr_grpo(rewards)
    deviation = math.sqrt(math.fsum(value * value for value in centred) / len(centred)) if centred else 0.0
    return [value / (deviation + EPSILON) for value in centred]


ADVANTAGES: dict[str, Callable[[Sequence[float]], list[float]]] = {"grpo": grpo, "dr_grpo": dr_grpo}
"""By the name a recipe uses."""
