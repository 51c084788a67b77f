"""Score rollouts: every function where it is to run, within its time, as often as it may try; all that they gave."""

from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from nexrl.errors import RewardError
from nexrl.records import Reward
from nexrl.rewards.function import RewardFunction
from nexrl.rewards.rollout import Rollout, needs
from nexrl.rewards.weighing import Missing, Weighed, total, weighed

if TYPE_CHECKING:
    from nexrl.rewards.threads import Threads
    from nexrl.rewards.workers import Workers


class Scorer:
    """Runs reward functions; an asynchronous context manager, since it owns their processes and threads.

    `weights` are those of the recipe; what functions in processes print goes to the file `log`.
    """

    def __init__(
        self,
        functions: Sequence[RewardFunction],
        *,
        weights: Mapping[str, float] | None = None,
        log: Path | None = None,
    ) -> None:
        for function in functions:
            if function.run_in == "process" and not function.file:
                raise RewardError(
                    f"reward {function.name!r}: run_in='process' needs a function of a reward file, which the process "
                    "can import; load it with `load_rewards`, or use run_in='thread'"
                )
        self._single = [function for function in functions if not function.group]
        self._grouped = [function for function in functions if function.group]
        self._weights = weights or {}
        self._log = log
        self._threads: Threads
        self._workers: Workers

    async def __aenter__(self) -> Self:
        # Loaded here, so that `import nexrl` stays light.
        from nexrl.rewards.threads import Threads
        from nexrl.rewards.workers import Workers

        self._threads, self._workers = Threads(), Workers(self._log)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.close()
        await self._workers.close()

    @property
    def compares(self) -> bool:
        """Whether a function sees the whole group, so that no rollout's total is known before."""
        return bool(self._grouped)

    @property
    def needs(self) -> frozenset[str]:
        """What the functions of single rollouts ask for, of `messages`, `calls` and `steps`."""
        return needs([name for function in self._single for name in function.wanted])

    @property
    def group_needs(self) -> frozenset[str]:
        """What the functions of groups ask for, of the same."""
        return needs([name for function in self._grouped for name in function.wanted])

    async def score(self, rollout: Rollout) -> list[Weighed]:
        """Return what the functions of single rollouts gave; raises RewardError with all that went wrong."""
        scored = await _all([self._scored(function, [rollout]) for function in self._single])
        return [item for [items] in scored for item in items]

    async def score_group(self, rollouts: Sequence[Rollout]) -> list[list[Weighed]]:
        """Return what the functions of groups gave each rollout; raises RewardError with all that went wrong."""
        scored = await _all([self._scored(function, rollouts) for function in self._grouped])
        return [[item for by_rollout in scored for item in by_rollout[index]] for index in range(len(rollouts))]

    async def _scored(self, function: RewardFunction, rollouts: Sequence[Rollout]) -> list[list[Weighed]]:
        place = self._workers if function.run_in == "process" else self._threads
        for tries_left in reversed(range(function.retries + 1)):
            try:
                rewards = await place.judge(function, rollouts)
                return [weighed(function.name, function.weight, items, self._weights) for items in rewards]
            except RewardError:
                if not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")


async def score(
    functions: Sequence[RewardFunction],
    rollout: Rollout,
    *,
    weights: Mapping[str, float] | None = None,
    given: Mapping[str, float] | None = None,
    missing: Missing = "fail",
) -> list[Reward]:
    """Return all rewards of one rollout, and last their weighted sum under the name `TOTAL`: see `weighing.total`.

    A group function sees the rollout as a group of one. Raises RewardError with all that went wrong.
    """
    async with Scorer(functions, weights=weights) as scorer:
        judged = await scorer.score(rollout)
        [compared] = await scorer.score_group([rollout])
        return total([*judged, *compared], weights or {}, given or {}, missing)


async def _all(work: Sequence[Awaitable[list[list[Weighed]]]]) -> list[list[list[Weighed]]]:
    """Await all: one that fails must not end the others in the middle, which would cost their processes."""
    import asyncio  # a third of the time of `import nexrl`

    done = await asyncio.gather(*work, return_exceptions=True)
    errors = [item for item in done if isinstance(item, BaseException)]
    for error in errors:
        if not isinstance(error, RewardError):
            raise error
    if errors:
        raise RewardError("; ".join(str(error) for error in errors))
    return [item for item in done if not isinstance(item, BaseException)]
