"""When a group is ready, and what of it is dropped. Pure: facts in, a verdict out.

A rule belongs to a run (`PUT /api/runs/{run}/rule`), or comes with a lease request and then counts for that request.
What is dropped is recorded with its reason (`pool.py`) and counted in `GET /api/runs/{run}`.
"""

from collections.abc import Iterable, Mapping
from statistics import pvariance
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from nexrl.rewards import TOTAL

SECOND_NS = 1_000_000_000
Reason = Literal["late", "failed", "stale", "zero-advantage", "low-variance", "unreadable"]
REASONS: dict[Reason, str] = {
    "late": "a rollout that was not final when its group was leased with a quorum",
    "failed": "a rollout that failed, and a group in which all did",
    "stale": "a group that older weights sampled than `max_staleness` allows",
    "zero-advantage": "a group whose rewards are all equal: nothing is better than anything else",
    "low-variance": "a group whose rewards vary less than `min_reward_variance`",
    "unreadable": "a group with a call that cannot be read back, whatever the rule is: nobody can be given it",
}


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When groups are ready and which are dropped; the default waits for all rollouts and drops nothing."""

    quorum: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    """Ready with this many final rollouts, `timeout_s` after that many were; None waits for all."""
    timeout_s: Annotated[float, Meta(ge=0, le=30 * 86_400)] = 0.0
    """How long the others still have once there is a quorum."""
    max_staleness: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    """Most weight versions between a group's oldest trained token and the `weight_version` of the lease request."""
    min_reward_variance: Annotated[float, Meta(ge=0)] = 0.0
    """Population variance of the rewards of the completed rollouts."""
    drop_zero_advantage: bool = False
    """Drop groups whose completed rollouts all have the same reward, or that have fewer than two of them."""
    drop_failed: bool = False
    """Leave failed rollouts out of their groups, and drop groups with nothing left."""
    reward: Annotated[str, Meta(min_length=1, max_length=200)] = TOTAL
    """The reward that is compared; a completed rollout without it has 0."""


class RolloutFacts(NamedTuple):
    """A final rollout, as far as a rule asks."""

    rollout: int
    failed: bool
    final_ns: int
    """When it became final."""
    rewards: Mapping[str, float]
    oldest: int | None
    """The oldest weight version that sampled a trained token; None where none was."""


class Verdict(NamedTuple):
    """What becomes of a ready group."""

    dropped: Reason | None = None
    """Why the group as a whole is dropped."""
    left_out: Mapping[int, Reason] = {}
    """Rollouts that are not part of the training group, and why."""


def is_ready(rule: Rule, size: int, finals_ns: Iterable[int], now_ns: int) -> bool:
    """Say whether a group can be leased: `finals_ns` are the times at which its rollouts became final."""
    times = sorted(finals_ns)
    if len(times) >= size:
        return True
    if rule.quorum is None or len(times) < rule.quorum:
        return False
    return times[rule.quorum - 1] + int(rule.timeout_s * SECOND_NS) <= now_ns


def judge(rule: Rule, size: int, rollouts: Iterable[RolloutFacts], weight_version: int | None) -> Verdict:
    """Say what is dropped of a ready group; the first reason that applies counts.

    Example: size 4, rollouts 0 (reward 1), 1 (reward 0), 2 (failed), quorum 3, drop_failed
        => the group is kept; rollout 2 is left out as failed, rollout 3 as late
    """
    finals = {item.rollout: item for item in rollouts}
    left_out: dict[int, Reason] = {index: "late" for index in range(size) if index not in finals}
    if rule.drop_failed:
        left_out |= {item.rollout: "failed" for item in finals.values() if item.failed}
    kept = [item for item in finals.values() if item.rollout not in left_out]
    return Verdict(_group_reason(rule, kept, weight_version), left_out)


def _group_reason(rule: Rule, kept: list[RolloutFacts], weight_version: int | None) -> Reason | None:
    if rule.drop_failed and not kept:
        return "failed"
    oldest = min((item.oldest for item in kept if item.oldest is not None), default=None)
    if (
        rule.max_staleness is not None
        and weight_version is not None
        and oldest is not None
        and weight_version - oldest > rule.max_staleness
    ):
        return "stale"
    rewards = [item.rewards.get(rule.reward, 0.0) for item in kept if not item.failed]
    if rule.drop_zero_advantage and len(set(rewards)) < 2:  # noqa: PLR2004 - two rewards differ, one does not
        return "zero-advantage"
    if rule.min_reward_variance > 0 and (not rewards or pvariance(rewards) < rule.min_reward_variance):
        return "low-variance"
    return None
