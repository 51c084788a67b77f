"""From the rewards of a group to one advantage per rollout.

Pure. A rollout counts once, however many sequences it has. A failed rollout has no reward and takes no part: neither
in the baseline nor in the update.
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
    return scaled(dr_grpo(rewards))


def rloo(rewards: Sequence[float]) -> list[float]:
    """A_i = r_i - mean of the others' rewards = n / (n - 1) (r_i - mean(r)). RLOO, arXiv 2402.14740.

    Example: 1 0 0 1 -> 2/3 -2/3 -2/3 2/3. One rollout alone has advantage 0.
    """
    others = max(len(rewards) - 1, 1)
    return [len(rewards) / others * value for value in dr_grpo(rewards)]


def best(rewards: Sequence[float]) -> list[float]:
    """A_i = 1 where r_i is the group's best reward, else 0: what is imitated. RAFT, arXiv 2304.06767.

    Example: 1 0 0 1 -> 1 0 0 1
    """
    return [float(reward == max(rewards)) for reward in rewards]


def plain(rewards: Sequence[float]) -> list[float]:
    """A_i = r_i, before the batch is normalised: REINFORCE++ has no baseline of a group."""
    return list(rewards)


def scaled(centred: Sequence[float]) -> list[float]:
    """Divide by the root mean square plus eps: the standard deviation of values whose mean is 0."""
    deviation = math.sqrt(math.fsum(value * value for value in centred) / len(centred)) if centred else 0.0
    return [value / (deviation + EPSILON) for value in centred]


def over_the_batch(groups: Sequence[Sequence[float]]) -> list[list[float]]:
    """Normalise (a - mean(a)) / (std(a) + eps) over all rollouts of the batch. REINFORCE++, arXiv 2501.03262.

    Over rollouts, where the paper's code weighs each by its tokens: length must not move the baseline.

    Example: [1 0] [0 0] -> [sqrt(3) -1/sqrt(3)] [-1/sqrt(3) -1/sqrt(3)] (up to eps)
    """
    values = iter(scaled(dr_grpo([value for group in groups for value in group])))
    return [[next(values) for _ in group] for group in groups]


ADVANTAGES: dict[str, Callable[[Sequence[float]], list[float]]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "reinforce_pp": plain,
    "reinforce_pp_baseline": dr_grpo,
    "best": best,
}
"""Within a group, by the name a recipe uses."""
BATCHWISE = frozenset({"reinforce_pp", "reinforce_pp_baseline"})
"""Those that are then normalised over the batch."""
WITHOUT_BASELINE = frozenset({"reinforce_pp", "distillation"})
"""Those to which a group teaches something although its rewards are all equal."""


def advantages(name: str, groups: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return one advantage per rollout, group by group."""
    within = [ADVANTAGES[name](rewards) for rewards in groups]
    return over_the_batch(within) if name in BATCHWISE else within
