"""From leased groups to datums: what is trained, what each token of it is worth, and what was left out and why.

Pure. A rollout's advantage is computed once, from its group's rewards; each of its trained tokens carries it.
"""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean, pstdev

from msgspec import Struct, structs

from nexrl.records import Float32s, TrainingGroup, Trajectory, Turn
from nexrl.records import Sequence as Laid
from nexrl.rewards import MISJUDGED, TOTAL
from nexrl_trainer.algorithms.advantages import ADVANTAGES, WITHOUT_BASELINE, advantages
from nexrl_trainer.algorithms.credit import call_advantages, overlong_penalty
from nexrl_trainer.batches.datums import Datum
from nexrl_trainer.batches.filters import trained_mask, truncated
from nexrl_trainer.recipe.algorithm import Algorithm

AGENT = "agent"
COUNTED = (
    "failed",
    "misjudged",
    "truncated",
    "truncated_tokens",
    "overlong",
    "other_agents_tokens",
    "altered_tokens",
    "stale_tokens",
)
"""Rollouts without a reward, those of them whose reward functions failed, cut off, punished for their length; and
tokens that are not trained because of it."""


class Candidate(Struct, frozen=True, kw_only=True):
    """A completed rollout, laid out; what it is worth is not decided yet."""

    value: float
    """What advantages are made of: its total reward, less penalties."""
    datums: list[Datum]
    """One per sequence, masked by the filters; their advantages are 0."""
    turns: list[list[Turn]]
    """By datum."""
    call_rewards: dict[str, float]
    """By call id."""


class Candidates(Struct, frozen=True, kw_only=True):
    """The completed rollouts of the leased groups, group by group."""

    groups: list[list[Candidate]]
    rewards: list[float]
    """Total reward of every completed rollout, in group order."""
    counts: Counter[str]
    """By name in COUNTED."""

    @property
    def datums(self) -> list[Datum]:
        return [datum for group in self.groups for item in group for datum in item.datums]


class Selection(Struct, frozen=True, kw_only=True):
    """What of the leased groups is trained, and what was left out and why."""

    datums: list[Datum]
    """Each trained token with weight 1: what it counts in its minibatch is `datums.weighed`'s to say."""
    rewards: list[float]
    """Total reward of every completed rollout, in group order."""
    failed: int
    """Rollouts without a reward."""
    without_contrast: int
    """Groups to whose baseline no rollout makes a difference: nothing to learn from."""
    counts: dict[str, int]
    """What else the filters found and took: COUNTED without the failed."""
    reward_spread: float
    """Standard deviation of the values within a group, mean over groups."""


def lay_out(groups: Sequence[TrainingGroup], algorithm: Algorithm, version: int) -> Candidates:
    """Lay completed rollouts out under the filters; `version` is that of the weights about to be trained."""
    counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
    laid: list[list[Candidate]] = []
    for group in groups:
        completed = [item for item in group.trajectories if item.status == "completed"]
        counts["failed"] += group.group.size - len(completed)
        counts["misjudged"] += sum(item.reason.startswith(MISJUDGED) for item in group.trajectories)
        laid.append([_candidate(item, algorithm, version, counts) for item in completed])
    rewards = [total_reward(item) for group in groups for item in group.trajectories if item.status == "completed"]
    return Candidates(groups=laid, rewards=rewards, counts=counts)


def less_kl(candidates: Candidates, reference: Sequence[Float32s], coefficient: float) -> Candidates:
    """Take coefficient x the sum over a rollout's trained tokens of (behaviour - reference) off its value.

    That is k1 in the reward: RLOO, arXiv 2402.14740, section 2. `reference` is float32 [T] per datum, in the order of
    `candidates.datums`.
    """
    scores = iter(reference)

    def penalised(item: Candidate) -> Candidate:
        kl = sum(
            flag * (behaviour - other)
            for datum in item.datums
            for flag, behaviour, other in zip(datum.loss_mask, datum.logprobs, next(scores), strict=True)
        )
        return structs.replace(item, value=item.value - coefficient * kl)

    return structs.replace(candidates, groups=[[penalised(item) for item in group] for group in candidates.groups])


def select(candidates: Candidates, algorithm: Algorithm) -> Selection:
    """Give every trained token its advantage; leave out groups without contrast, and datums with nothing to train."""
    kept = [group for group in candidates.groups if teaches(group, algorithm)]
    values = [[item.value for item in group] for group in kept]
    known = algorithm.advantage in ADVANTAGES
    worth = advantages(algorithm.advantage, values) if known else [[0.0] * len(group) for group in kept]
    datums = [
        datum
        for group, values_ in zip(kept, worth, strict=True)
        for datum in _valued(group, values_, algorithm)
        if any(datum.loss_mask) and (algorithm.advantage != "best" or any(datum.advantages))
    ]
    spreads = [pstdev([item.value for item in group]) for group in candidates.groups if group]
    counts = dict(candidates.counts)
    return Selection(
        datums=datums,
        rewards=candidates.rewards,
        failed=counts.pop("failed"),
        without_contrast=len(candidates.groups) - len(kept),
        counts=counts,
        reward_spread=fmean(spreads) if spreads else 0.0,
    )


def teaches(group: Sequence[Candidate], algorithm: Algorithm) -> bool:
    """Whether the rollouts of a group differ in what they are worth, where the advantage compares them at all."""
    if algorithm.advantage in WITHOUT_BASELINE:
        return bool(group)
    given = {reward for item in group for reward in item.call_rewards.values()}
    return len({item.value for item in group}) > 1 or len(given) > 1


def total_reward(trajectory: Trajectory) -> float:
    """Return a completed rollout's weighted sum of rewards."""
    return next(item.value for item in trajectory.rewards if item.name == TOTAL and item.by == "trainer")


def rewards_of_calls(trajectory: Trajectory, names: Sequence[str]) -> dict[str, float]:
    """Return the sum of the named rewards of each call: of one given twice the latest, an agent's own never."""
    latest = {
        (item.call, item.name): item.value
        for item in sorted(trajectory.rewards, key=lambda item: item.at_ns)
        if item.call and item.name in names and item.by != AGENT
    }
    summed: Counter[str] = Counter()
    for (call, _), value in latest.items():
        summed[call] += value  # pyright: ignore[reportArgumentType]
    return dict(summed)


def _candidate(trajectory: Trajectory, algorithm: Algorithm, version: int, counts: Counter[str]) -> Candidate:
    """Return the rollout, laid out; add to `counts` what the filters took."""
    sequences = [item for item in trajectory.sequences if any(item.loss_mask)]
    cut = truncated(trajectory.sequences)
    counts["truncated"] += cut
    sampled = sum(sum(item.loss_mask) for item in sequences)
    value, overlong = total_reward(trajectory), algorithm.overlong
    if overlong.limit and overlong.buffer:
        penalty = overlong_penalty(sampled, overlong.limit, overlong.buffer)
        counts["overlong"] += penalty > 0
        value -= overlong.penalty * penalty
    datums: list[Datum] = []
    for item in sequences:
        datum, taken = _datum(item, trajectory.session, algorithm, version)
        counts.update(taken)
        datums.append(datum)
    if cut and algorithm.filters.truncated == "mask":
        counts["truncated_tokens"] += sum(datum.trained_tokens for datum in datums)
        datums = [structs.replace(datum, loss_mask=type(datum.loss_mask)([0] * len(datum.ids))) for datum in datums]
    return Candidate(
        value=value,
        datums=datums,
        turns=[item.turns for item in sequences],
        call_rewards=rewards_of_calls(trajectory, algorithm.call_rewards.names),
    )


def _datum(item: Laid, session: str, algorithm: Algorithm, version: int) -> tuple[Datum, Counter[str]]:
    mask, taken = trained_mask(item, algorithm.filters, version)
    datum = Datum(
        ids=item.ids,
        loss_mask=mask,
        logprobs=item.logprobs,
        temperatures=item.temperatures,
        weight_versions=item.weight_versions,
        advantages=Float32s([0.0] * len(mask)),
        weights=Float32s(map(float, mask)),
        session=session,
        policy=item.policy,
    )
    return datum, taken


def _valued(group: Sequence[Candidate], worth: Sequence[float], algorithm: Algorithm) -> list[Datum]:
    """Return a group's datums with their tokens' advantages: the rollout's, and what the rewards of calls add."""
    owners = [(item, value) for item, value in zip(group, worth, strict=True) for _ in item.datums]
    chains = [[item.call_rewards.get(turn.call) for turn in turns] for item in group for turns in item.turns]
    rule = algorithm.call_rewards
    added = call_advantages(chains, discount=rule.discount, divided=algorithm.advantage == "grpo")
    datums = [datum for item in group for datum in item.datums]
    turns = [turns for item in group for turns in item.turns]
    return [
        structs.replace(datum, advantages=_by_token(datum, value, of_datum, extra))
        for datum, (_, value), of_datum, extra in zip(datums, owners, turns, added, strict=True)
    ]


def _by_token(datum: Datum, value: float, turns: Sequence[Turn], added: Sequence[float]) -> Float32s:
    worth = [value] * len(datum.ids)
    for turn, extra in zip(turns, added, strict=True):
        for index in range(turn.start, turn.end):
            worth[index] += extra
    return Float32s(flag * number for flag, number in zip(datum.loss_mask, worth, strict=True))
