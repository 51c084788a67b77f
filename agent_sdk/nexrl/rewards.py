"""`@nexrl.reward`: turn a plain function into a judge of rollouts.

    @nexrl.reward
    def correct(task: dict, answer: str) -> float:
        return float(answer.strip() == task["answer"])

A reward function asks for what it needs by parameter name (see `Rollout`), is sync or async, and returns a float, a
bool, or a dict of named numbers. What goes wrong in it is a failed rollout with a reason, never a crash of the run.
"""

import asyncio
import importlib.util
import inspect
import math
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, overload

from msgspec import Struct

from nexrl.errors import RewardError
from nexrl.records import Reward

DEFAULT_TIMEOUT_S = 30.0
TOTAL = "total"
"""Name of the reward that sums the others up: what advantages are made of."""
Scores = float | bool | dict[str, float]


class Rollout(Struct, frozen=True, kw_only=True):
    """What a reward function may ask for; each field is also a parameter name it can take."""

    task: dict[str, Any]
    """The task's row in the dataset."""
    answer: str
    """What the agent printed, without surrounding whitespace."""
    messages: list[dict[str, Any]] = []
    """The conversation of the longest chain, the last reply included, as the agent sent and received it."""
    duration_s: float = 0.0
    """Wall-clock seconds from the agent's start to its end."""


PARAMETERS = (*Rollout.__struct_fields__, "rollout")


class RewardFunction:
    """A function marked with `@nexrl.reward`; calling it calls the function."""

    def __init__(self, function: Callable[..., Any], *, name: str, weight: float, timeout_s: float) -> None:
        self.function = function
        self.name = name
        self.weight = weight
        self.timeout_s = timeout_s
        self.wanted = _wanted_parameters(function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    async def score(self, rollout: Rollout) -> list[Reward]:
        """Judge one rollout; raises RewardError naming the function where it fails, hangs or returns no number."""
        given = {name: rollout if name == "rollout" else getattr(rollout, name) for name in self.wanted}
        try:
            async with asyncio.timeout(self.timeout_s):
                scores = await self._run(given)
        except TimeoutError as error:
            raise RewardError(f"reward {self.name!r}: no answer within {self.timeout_s:g} s") from error
        except Exception as error:
            raise RewardError(f"reward {self.name!r}: {type(error).__name__}: {error}") from error
        return self._named(scores)

    async def _run(self, given: dict[str, Any]) -> Any:
        if inspect.iscoroutinefunction(self.function):
            return await self.function(**given)
        return await _in_daemon_thread(lambda: self.function(**given))

    def _named(self, scores: Any) -> list[Reward]:
        named: dict[Any, Any] = scores if isinstance(scores, dict) else {self.name: scores}
        for name, value in named.items():
            if name == TOTAL:
                raise RewardError(f"reward {self.name!r}: the name {TOTAL!r} is taken by the weighted sum; use another")
            if not isinstance(name, str) or not isinstance(value, int | float) or not math.isfinite(value):
                raise RewardError(
                    f"reward {self.name!r} returned {scores!r}: return a finite number, a bool, or a dict"
                )
        return [Reward(name=name, value=float(value)) for name, value in named.items()]


@overload
def reward(function: Callable[..., Any], /) -> RewardFunction: ...
@overload
def reward(
    *, name: str | None = None, weight: float = 1.0, timeout_s: float = DEFAULT_TIMEOUT_S
) -> Callable[[Callable[..., Any]], RewardFunction]: ...
def reward(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    weight: float = 1.0,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> RewardFunction | Callable[[Callable[..., Any]], RewardFunction]:
    """Mark a function as a reward.

    A rollout's reward is the sum of every marked function's value times its `weight`; a dict's entries share it.
    Raises RewardError where the function asks for a parameter nobody can give it.
    """

    def mark(marked: Callable[..., Any]) -> RewardFunction:
        return RewardFunction(marked, name=name or marked.__name__, weight=weight, timeout_s=timeout_s)

    return mark(function) if function else mark


def load_rewards(path: Path) -> list[RewardFunction]:
    """Import a file and return its reward functions in order of definition.

    Raises RewardError where the file is missing, does not import, or marks no function.
    """
    if not path.is_file():
        raise RewardError(f"reward file {path}: no such file")
    spec = importlib.util.spec_from_file_location(f"nexrl_reward_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RewardError(f"reward file {path} does not import: {type(error).__name__}: {error}") from error
    found = [value for value in vars(module).values() if isinstance(value, RewardFunction)]
    if not found:
        raise RewardError(f"reward file {path}: no function is marked with @nexrl.reward")
    return found


async def score(functions: Sequence[RewardFunction], rollout: Rollout) -> list[Reward]:
    """Return all named rewards of a rollout, and last their weighted sum under the name `TOTAL`."""
    scored = await asyncio.gather(*(function.score(rollout) for function in functions))
    pairs = zip(functions, scored, strict=True)
    total = math.fsum(function.weight * item.value for function, items in pairs for item in items)
    return [*(item for items in scored for item in items), Reward(name=TOTAL, value=total)]


def _wanted_parameters(function: Callable[..., Any]) -> list[str]:
    wanted: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in PARAMETERS:
            wanted.append(parameter.name)
        elif parameter.default is parameter.empty:
            choices = ", ".join(PARAMETERS)
            raise RewardError(f"reward {function.__name__!r} asks for {parameter.name!r}: it can have {choices}")
    return wanted


async def _in_daemon_thread(function: Callable[[], Any]) -> Any:
    """Run a blocking function where a hang cannot keep the process from ending, as an executor's thread would."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: Exception | None) -> None:
        if not future.done():
            if error:
                future.set_exception(error)
            else:
                future.set_result(result)

    def run() -> None:
        try:
            outcome: tuple[Any, Exception | None] = (function(), None)
        except Exception as error:  # noqa: BLE001 - whatever a user's function raises belongs to its rollout
            outcome = (None, error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="nexrl-reward", daemon=True).start()
    return await future
