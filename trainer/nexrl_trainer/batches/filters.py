"""What of a rollout is not trained, and how much of it: stale tokens, calls whose logprobs nobody can recompute.

Pure. What is left out is counted; whole groups are `selection.py`'s to leave out.
"""

from collections import Counter
from collections.abc import Sequence as Ordered

from nexrl.records import Int32s, Sequence
from nexrl_trainer.recipe.algorithm import Filters

CUT_OFF = "length"


def truncated(sequences: Ordered[Sequence]) -> bool:
    """Whether one of the rollout's calls was cut off by its length."""
    return any(turn.finish_reason == CUT_OFF for item in sequences for turn in item.turns)


def trained_mask(item: Sequence, filters: Filters, version: int) -> tuple[Int32s, Counter[str]]:
    """Return the mask int32 [T] of what is trained by weights of `version`, and how many tokens each filter took.

    A token that two filters would take is counted by the first: other agents', altered, stale.
    """
    mask = Int32s(item.loss_mask)
    counts: Counter[str] = Counter()
    others = [index for turn in item.turns if not learns(turn.agent, filters) for index in range(turn.start, turn.end)]
    counts["other_agents_tokens"] = _leave_out(mask, others)
    if filters.altered == "mask":
        altered = [index for turn in item.turns if turn.altered for index in range(turn.start, turn.end)]
        counts["altered_tokens"] = _leave_out(mask, altered)
    if filters.staleness is not None:
        oldest = version - filters.staleness
        stale = [index for index, flag in enumerate(mask) if flag and item.weight_versions[index] < oldest]
        whole = stale and filters.stale == "sequence"
        counts["stale_tokens"] = _leave_out(mask, range(len(mask)) if whole else stale)
    return mask, counts


def learns(agent: str | None, filters: Filters) -> bool:
    """Whether what a sub-agent sampled is trained; None is one without a name.

    Example: agents ["planner", ""] -> planner and None, not critic; frozen_agents ["critic"] -> the same
    """
    name = agent or ""
    return name not in filters.frozen_agents if filters.agents is None else name in filters.agents


def _leave_out(mask: Int32s, indices: Ordered[int]) -> int:
    """Set the mask to 0 there; return how many tokens that took."""
    taken = sum(mask[index] for index in indices)
    for index in indices:
        mask[index] = 0
    return taken
