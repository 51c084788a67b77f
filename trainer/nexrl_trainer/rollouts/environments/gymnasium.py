"""The user's environment: an object with Gymnasium's `reset` and `step`, and what it returns checked.

https://gymnasium.farama.org/api/env/. Its methods may be async; others run in a thread of the environment's own. What
is made of observations and rewards is `episode.py`'s part.
"""

import math
from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any, Self

from msgspec import Struct

from nexrl.errors import RunError
from nexrl.parameters import wanted_parameters
from nexrl_trainer.rollouts.environments.own_thread import OwnThread

OF_RESET = ("seed", "options")
SHOWN = 200
"""Characters of an unusable value that an error shows."""
STEPS = "(observation, reward, terminated, truncated, info)"
_STEP_VALUES, _RESET_VALUES = 5, 2


class ToolCall(Struct, frozen=True, kw_only=True):
    """An action of the model where the environment has `tools`."""

    id: str
    name: str
    arguments: Any
    """As decoded: a dict by the tool's parameters, unless the model wrote something else."""


Action = str | ToolCall


class Stepped(Struct, frozen=True, kw_only=True):
    """What an action led to."""

    observation: Any
    reward: float
    ended: bool
    """Terminated or truncated: what is observed is shown to nobody."""


class Environment:
    """One made for one attempt; `name` is what errors call it."""

    def __init__(self, made: Any, name: str, thread: OwnThread) -> None:
        self._made = made
        self._name = name
        self._thread = thread

    @classmethod
    async def made(cls, factory: Callable[..., Any], wanted: Mapping[str, Any], name: str) -> Self:
        """Make one; raises RunError where it has no `reset` and `step`, and whatever the factory raises."""
        thread = OwnThread()
        try:
            made = await thread.call(factory, **wanted)
        except BaseException:
            thread.close()
            raise
        for method in ("reset", "step"):
            if not callable(getattr(made, method, None)):
                thread.close()
                raise RunError(f"environment {name}: a {type(made).__name__} has no {method!r}; Gymnasium's Env has")
        return cls(made, name, thread)

    @property
    def tools(self) -> list[Any] | None:
        """Chat tools by which the model can act; None where it acts in words alone."""
        # Gymnasium's wrappers show their own attributes alone.
        inside = getattr(self._made, "unwrapped", None)
        return list(getattr(self._made, "tools", None) or getattr(inside, "tools", None) or []) or None

    async def reset(self, *, seed: int, options: dict[str, Any]) -> Any:
        """Begin an episode and return its first observation; raises RunError for anything but a pair."""
        given = {"seed": seed, "options": options}
        try:
            wanted = wanted_parameters(self._made.reset, OF_RESET)
        except ValueError as error:
            raise self._error(f"its reset {error}") from error
        if any(one.kind is Parameter.VAR_KEYWORD for one in signature(self._made.reset).parameters.values()):
            wanted = list(OF_RESET)  # as wrappers pass them on
        returned = await self._thread.call(self._made.reset, **{name: given[name] for name in wanted})
        if not isinstance(returned, tuple) or len(returned) != _RESET_VALUES:
            raise self._error(f"reset returned {shown(returned)}: return (observation, info)")
        return returned[0]

    async def step(self, action: Action) -> Stepped:
        """Act; raises RunError for anything but Gymnasium's five values, with a finite reward."""
        returned = await self._thread.call(self._made.step, action)
        if not isinstance(returned, tuple) or len(returned) != _STEP_VALUES:
            raise self._error(f"step returned {shown(returned)}: return {STEPS}")
        observation, reward, terminated, truncated, _ = returned
        # NumPy's and torch's scalars are no floats.
        plain = reward.item() if getattr(reward, "shape", None) == () else reward
        if not isinstance(plain, int | float) or not math.isfinite(plain):
            raise self._error(f"step returned the reward {shown(reward)}: return a finite number")
        return Stepped(observation=observation, reward=float(plain), ended=bool(terminated or truncated))

    def error_about(self, observation: Any, what: str) -> RunError:
        """Return the error for an observation that nobody can be shown."""
        return self._error(f"the observation {shown(observation)} {what}")

    async def close(self) -> None:
        """Let go of what it holds; raises what it raises."""
        try:
            if callable(close := getattr(self._made, "close", None)):
                await self._thread.call(close)
        finally:
            self._thread.close()

    def _error(self, what: str) -> RunError:
        return RunError(f"environment {self._name}: {what}")


def shown(value: Any) -> str:
    return repr(value)[:SHOWN]
