"""From leased groups to what the train service eats: datums, minibatches, packed micro-batches.

Pure. A rollout's advantage is computed once; each of its trained tokens carries it.
"""

from collections.abc import Sequence

from msgspec import Struct

from nexrl.records import Float32s, Int32s, TrainingGroup, Trajectory
from nexrl.rewards import TOTAL
from nexrl_trainer.algorithms.advantages import ADVANTAGES


class Datum(Struct, frozen=True, kw_only=True):
    """One sequence and what each of its tokens is worth. All arrays have the same length T."""

    ids: Int32s
    """int32 [T]"""
    loss_mask: Int32s
    """int32 [T], 1 where the token is trained. The first token never is: nothing predicts it."""
    logprobs: Float32s
    """float32 [T], the engine's, read where the mask is 1."""
    temperatures: Float32s
    """float32 [T]"""
    weight_versions: Int32s
    """int32 [T], -1 where the mask is 0."""
    advantages: Float32s
    """float32 [T], read where the mask is 1."""
    session: str
    """The attempt it came from, for whoever looks at a batch."""

    @property
    def trained_tokens(self) -> int:
        return sum(self.loss_mask)


class Selection(Struct, frozen=True, kw_only=True):
    """What of the leased groups is trained, and what was left out and why."""

    datums: list[Datum]
    rewards: list[float]
    """Total reward of every completed rollout, in group order."""
    failed: int
    """Rollouts without a reward."""
    without_contrast: int
    """Groups whose rewards are all equal, or that have fewer than two completed rollouts: nothing to learn from."""


def select(groups: Sequence[TrainingGroup], advantage: str) -> Selection:
    """Give every trained token its rollout's advantage; leave out failed rollouts and groups without contrast.

    `advantage` names a function of `algorithms.advantages`.
    """
    datums: list[Datum] = []
    rewards: list[float] = []
    failed = without_contrast = 0
    for group in groups:
        completed = [item for item in group.trajectories if item.status == "completed"]
        failed += group.group.size - len(completed)
        scores = [total_reward(item) for item in completed]
        rewards += scores
        if len(set(scores)) <= 1:
            without_contrast += 1
            continue
        for trajectory, value in zip(completed, ADVANTAGES[advantage](scores), strict=True):
            datums += _datums(trajectory, value)
    return Selection(datums=datums, rewards=rewards, failed=failed, without_contrast=without_contrast)


def minibatches(datums: Sequence[Datum], count: int) -> list[list[Datum]]:
    """Deal whole rollouts into at most `count` parts with about equal numbers of trained tokens.

    A rollout is never split over two optimizer steps. Largest first into the smallest part, so the result depends on
    the datums alone.
    """
    sessions: dict[str, list[Datum]] = {}
    for datum in datums:
        sessions.setdefault(datum.session, []).append(datum)
    parts: list[list[Datum]] = [[] for _ in range(min(count, len(sessions)))]
    loads = [0] * len(parts)
    for members in sorted(sessions.values(), key=lambda items: -sum(item.trained_tokens for item in items)):
        smallest = loads.index(min(loads))
        parts[smallest] += members
        loads[smallest] += sum(item.trained_tokens for item in members)
    return parts


def micro_batches(datums: Sequence[Datum], token_budget: int) -> list[list[Datum]]:
    """Cut into packs of at most `token_budget` tokens, longest first; a longer sequence goes alone.

    First fit decreasing. Order does not change the loss, which is a sum over tokens.
    """
    packs: list[list[Datum]] = []
    room: list[int] = []
    for datum in sorted(datums, key=lambda item: -len(item.ids)):
        index = next((i for i, free in enumerate(room) if free >= len(datum.ids)), None)
        if index is None:
            packs.append([datum])
            room.append(token_budget - len(datum.ids))
        else:
            packs[index].append(datum)
            room[index] -= len(datum.ids)
    return packs


def total_reward(trajectory: Trajectory) -> float:
    """Return a completed rollout's weighted sum of rewards."""
    return next(item.value for item in trajectory.rewards if item.name == TOTAL and item.by == "trainer")


def _datums(trajectory: Trajectory, advantage: float) -> list[Datum]:
    return [
        Datum(
            ids=item.ids,
            loss_mask=item.loss_mask,
            logprobs=item.logprobs,
            temperatures=item.temperatures,
            weight_versions=item.weight_versions,
            advantages=Float32s([advantage * mask for mask in item.loss_mask]),
            session=trajectory.session,
        )
        for item in trajectory.sequences
        if any(item.loss_mask)
    ]
