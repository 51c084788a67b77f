"""What a step's line in metrics.jsonl says: means over trained tokens, shares and counts of rollouts, seconds.

Pure, but for the clock. The train service sums (`algorithms/loss.py`), the selection counts; this only puts together.
"""

import time
from collections.abc import Sequence
from typing import Any

from nexrl_trainer.algorithms.spread import NAMES as RATIO_BINS
from nexrl_trainer.algorithms.spread import ratio_quantiles
from nexrl_trainer.batches.selection import Selection
from nexrl_trainer.policy.service import Sums
from nexrl_trainer.rollouts.collect import Collected


class Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = now - self._last
        self._last = now


def token_means(sums: Sums) -> dict[str, float]:
    """Turn sums over trained tokens into means; the loss is one already, maxima stay, ratios also give quantiles."""
    means = {
        name: value if name == "loss" or name.endswith("_max") else value / sums["tokens"]
        for name, value in sums.items()
        if name != "tokens" and name not in RATIO_BINS
    }
    return {**means, **ratio_quantiles(sums)}


def step_metrics(
    version: int,
    selection: Selection,
    collected: Collected,
    learned: Sequence[dict[str, float]],
    clock: Clock,
) -> dict[str, Any]:
    """Return everything a step's line in metrics.jsonl says."""
    groups = collected.groups
    sequences = [item for group in groups for trajectory in group.trajectories for item in trajectory.sequences]
    versions = [v for item in sequences for v, flag in zip(item.weight_versions, item.loss_mask, strict=True) if flag]
    stale = [version - item for item in versions]
    lengths = [len(item.ids) for item in sequences]
    rewards = selection.rewards
    rollouts = len(rewards) + selection.failed
    mean = sum(rewards) / len(rewards) if rewards else None
    metrics: dict[str, Any] = {
        "version": version,
        "reward": mean,
        "rollouts": rollouts,
        "failed": selection.failed,
        "groups": len(groups),
        "without_contrast": selection.without_contrast,
        "reward_spread": selection.reward_spread,
        **selection.counts,
        "sequences": len(selection.datums),
        "sequence_tokens_mean": sum(lengths) / len(lengths) if lengths else 0.0,
        "sequence_tokens_max": max(lengths, default=0),
        "trained_tokens": sum(datum.trained_tokens for datum in selection.datums),
        "sampled_tokens": len(versions),
        # Not known where some of the rollouts were run before an interruption.
        "sampled_tokens_per_s": len(versions) / clock.laps["rollout_s"] if collected.ran == rollouts else None,
        "drift": sum(len(trajectory.drift) for group in groups for trajectory in group.trajectories),
        "staleness_mean": sum(stale) / len(stale) if stale else 0.0,
        "staleness_max": max(stale, default=0),
        **clock.laps,
    }
    if learned:
        means = {name: sum(item[name] for item in learned) / len(learned) for name in learned[0]}
        # Before the step's first update the weights are the engine's own: what differs there is numerics alone.
        metrics |= {**means, "gap": learned[0]["gap"], "gap_max": learned[0]["gap_max"]}
    return metrics
