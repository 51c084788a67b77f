"""What a step's line in metrics.jsonl says: means over trained tokens, shares and counts of rollouts, seconds.

Pure, but for the clock. The train service sums (`algorithms/loss.py`), the selection counts; this only puts together.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from nexrl.records import GREEDY, INEXACT, Trajectory
from nexrl_ingest.client import ExternalState
from nexrl_trainer.algorithms.spread import NAMES as RATIO_BINS
from nexrl_trainer.algorithms.spread import ratio_quantiles
from nexrl_trainer.batches.selection import Selection
from nexrl_trainer.policy.service import Sums
from nexrl_trainer.rollouts.collected import GIVEN_UP, STALE, UNREADABLE, WITHOUT_CONTRAST, Collected
from nexrl_trainer.rollouts.slots import NOTHING, Slots

DROPPED = {
    "dropped_stale": STALE,
    "dropped_without_contrast": WITHOUT_CONTRAST,
    "dropped_given_up": GIVEN_UP,
    "dropped_unreadable": UNREADABLE,
}
"""Groups that were run and not trained, by the reason that the feed counts them under."""


class Clock:
    """Seconds between laps, and what of them the agents' slots were in use."""

    def __init__(self, slots: Slots | None) -> None:
        """Take `slots` None where no agent is run."""
        self.laps: dict[str, float] = {}
        self._slots = slots
        self._before = slots.spent() if slots else NOTHING
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = now - self._last
        self._last = now

    @property
    def seconds(self) -> float:
        """All laps together."""
        return sum(self.laps.values())

    @property
    def sampling_s(self) -> float:
        """Seconds during which at least one agent ran."""
        return self._slots.spent().busy_s - self._before.busy_s if self._slots else 0.0

    @property
    def agents_idle(self) -> float | None:
        """Share of the agents' slots that were free, over time; None without agents."""
        if not self._slots:
            return None
        taken_s = self._slots.spent().taken_s - self._before.taken_s
        return max(0.0, 1 - taken_s / (self._slots.count * self.seconds)) if self.seconds else 0.0


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
    trained = sum(datum.trained_tokens for datum in selection.datums)
    sampling_s = clock.sampling_s
    mean = sum(rewards) / len(rewards) if rewards else None
    metrics: dict[str, Any] = {
        "version": version,
        "reward": mean,
        "rollouts": rollouts,
        "failed": selection.failed,
        "quarantined": collected.quarantined,
        "groups": len(groups),
        "without_contrast": selection.without_contrast,
        "reward_spread": selection.reward_spread,
        **selection.counts,
        "sequences": len(selection.datums),
        "sequence_tokens_mean": sum(lengths) / len(lengths) if lengths else 0.0,
        "sequence_tokens_max": max(lengths, default=0),
        "trained_tokens": trained,
        "sampled_tokens": len(versions),
        # Not known where some of the rollouts were run before an interruption.
        "sampled_tokens_per_s": len(versions) / sampling_s if sampling_s and collected.ran == rollouts else None,
        "trained_tokens_per_s": trained / clock.laps["train_s"],
        **calls_metrics([trajectory for group in groups for trajectory in group.trajectories]),
        "staleness_mean": sum(stale) / len(stale) if stale else 0.0,
        "staleness_max": max(stale, default=0),
        **{name: collected.dropped[reason] for name, reason in DROPPED.items()},
        "trainer_idle": clock.laps["rollout_s"] / clock.seconds,
        "agents_idle": clock.agents_idle,
        **clock.laps,
    }
    if collected.standing:
        metrics |= sessions_metrics(collected.standing)
    if learned:
        means = {name: sum(item[name] for item in learned) / len(learned) for name in learned[0]}
        # Before the step's first update the weights are the engine's own: what differs there is numerics alone.
        metrics |= {**means, "gap": learned[0]["gap"], "gap_max": learned[0]["gap_max"]}
    return metrics


def calls_metrics(trajectories: Sequence[Trajectory]) -> dict[str, int]:
    """Count the calls of rollouts: all, those of which nothing can be trained by what they asked or got, and drift.

    Example: of three calls two at temperature 0, one of which was edited -> calls 3, greedy 2, inexact 0, drift 1
    """
    reasons = Counter(item.reason for trajectory in trajectories for item in trajectory.drift)
    laid = {turn.call for trajectory in trajectories for item in trajectory.sequences for turn in item.turns}
    told = {item.call for trajectory in trajectories for item in trajectory.drift}
    greedy, inexact = reasons.pop(GREEDY, 0), reasons.pop(INEXACT, 0)
    return {"calls": len(laid | told), "greedy": greedy, "inexact": inexact, "drift": reasons.total()}


def mostly_greedy(metrics: Mapping[str, Any]) -> str | None:
    """Say of a step most of whose calls were greedy that they teach nothing, and what helps; None of any other."""
    if metrics["greedy"] * 2 <= metrics["calls"]:
        return None
    return (
        f"{metrics['greedy']} of {several(metrics['calls'], 'call')} were greedy (temperature 0): nothing of them is "
        "trained; set proxy.sampling.train.force.temperature: 1"
    )


def sessions_metrics(standing: ExternalState) -> dict[str, int]:
    """Return how the sessions stand that nobody planned."""
    return {
        "sessions_talking": standing.talking,
        "sessions_waiting": standing.waiting,
        "sessions_without_feedback": standing.without_feedback,
        "sessions_ready": standing.ready,
    }


def commonest(reasons: Sequence[str]) -> str:
    """Say what went wrong most often. Example: a a b -> "2 times: a; 1 time: b"."""
    return "; ".join(f"{several(count, 'time')}: {reason}" for reason, count in Counter(reasons).most_common(3))


def several(count: int, noun: str) -> str:
    """Return a number with its noun. Example: 1 step, 2 steps."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def contrast(metrics: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many groups of a step had no contrast, and of how many; those are in it that were replaced."""
    replaced = metrics["dropped_without_contrast"]
    return metrics["without_contrast"] + replaced, metrics["groups"] + replaced


def why_untrained(lines: Sequence[Mapping[str, Any]]) -> str | None:
    """Say why no step trained a token, and what helps; None where one did, or none was made.

    `lines` are those of metrics.jsonl.
    """
    steps = [line for line in lines if line["kind"] == "step"]
    if not steps or any(line["trained_tokens"] for line in steps):
        return None
    failed, rollouts = (sum(line[name] for line in steps) for name in ("failed", "rollouts"))
    equal, groups = (sum(numbers) for numbers in zip(*map(contrast, steps), strict=True))
    calls = {name: sum(line[name] for line in steps) for name in ("greedy", "calls")}
    causes = [greedy] if (greedy := mostly_greedy(calls)) else []
    if failed:
        causes.append(f"{failed} of {several(rollouts, 'rollout')} failed: `nexrl sessions` shows why")
    if equal and not greedy:
        causes.append(
            f"{equal} of {several(groups, 'group')} had no contrast, for the rewards of their rollouts were equal: "
            "tasks that are solved now and then, a reward with more shades, or a larger `rollouts.group_size` give some"
        )
    if not greedy and (equal < groups or not groups):
        causes.append("what else was sampled was left out: see `algorithm.filters` and the counts in metrics.jsonl")
    return "nothing was trained; " + "; ".join(causes)
