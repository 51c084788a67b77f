"""`@nexrl.reward`: a function or a class, marked as a judge of rollouts, and what it was marked with.

Where and how long it runs is `scoring.py`'s part; here it is called and what it returns is read.
"""

import inspect
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from nexrl.blame import blamed
from nexrl.errors import RewardError
from nexrl.parameters import wanted_parameters
from nexrl.records import Reward
from nexrl.rewards.returned import rewards_of, rewards_of_group
from nexrl.rewards.rollout import GROUP_PARAMETERS, PARAMETERS, Rollout, arguments

DEFAULT_TIMEOUT_S = 30.0
Place = Literal["process", "thread"]


class RewardFunction:
    """Something marked with `@nexrl.reward`; calling it calls what was marked."""

    def __init__(
        self,
        marked: Callable[..., Any],
        *,
        name: str | None = None,
        weight: float = 1.0,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = 0,
        group: bool = False,
        run_in: Place | None = None,
    ) -> None:
        self.name = name or getattr(marked, "__name__", type(marked).__name__)
        if timeout_s <= 0 or retries < 0:
            raise RewardError(f"reward {self.name!r}: timeout_s={timeout_s}, retries={retries}; use > 0 and >= 0")
        self.weight = weight
        self.timeout_s = timeout_s
        self.retries = retries
        self.group = group
        self.file: Path | None = None
        """The reward file it stands in, once `load_rewards` has found it there."""
        self._run_in: Place | None = run_in
        self.made_once = inspect.isclass(marked)
        self._marked = marked
        self._made: Callable[..., Any] | None = None
        self._making = threading.Lock()
        called = _called(marked, self.name)
        self.asynchronous = inspect.iscoroutinefunction(called)
        try:
            self.wanted = wanted_parameters(called, GROUP_PARAMETERS if group else PARAMETERS)
        except ValueError as error:
            raise RewardError(f"reward {self.name!r} {error}") from error

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.prepare()(*args, **kwargs)

    @property
    def run_in(self) -> Place:
        """Where it runs: as it was marked, else in a process where it is sync and stands in a reward file."""
        if self._run_in:
            return self._run_in
        return "process" if self.file and not self.asynchronous else "thread"

    def prepare(self) -> Callable[..., Any]:
        """Return what is called: the function, or the one instance this process has of a class."""
        if not self.made_once:
            return self._marked
        with self._making:
            if self._made is None:
                self._made = self._ready()
            return self._made

    async def judge(self, rollouts: Sequence[Rollout]) -> list[list[Reward]]:
        """Call it, here and now, for one rollout or for a group; return each rollout's rewards.

        Raises RewardError naming the function where it raises, calls `sys.exit`, or returns what is no reward.
        """
        function = self.prepare()
        try:
            returned = function(**arguments(self.wanted, rollouts))
            if inspect.isawaitable(returned):
                returned = await returned
        except RewardError as error:
            raise RewardError(f"reward {self.name!r}: {error}") from error
        except (Exception, SystemExit) as error:
            raise RewardError(f"reward {self.name!r}: {blamed(error, self._folder)}") from error
        calls = [{call.id for call in rollout.calls} for rollout in rollouts]
        if self.group:
            return rewards_of_group(self.name, returned, calls)
        return [rewards_of(self.name, returned, calls[0])]

    @property
    def _folder(self) -> Path | None:
        """Where the files lie that an error of it is looked for in."""
        return self.file.resolve().parent if self.file else None

    def _ready(self) -> Callable[..., Any]:
        try:
            instance = self._marked()
        except (Exception, SystemExit) as error:
            raise RewardError(f"reward {self.name!r}: its __init__: {blamed(error, self._folder)}") from error
        return instance.score if hasattr(instance, "score") else instance


@overload
def reward(marked: Callable[..., Any], /) -> RewardFunction: ...
@overload
def reward(
    *,
    name: str | None = None,
    weight: float = 1.0,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    retries: int = 0,
    group: bool = False,
    run_in: Place | None = None,
) -> Callable[[Callable[..., Any]], RewardFunction]: ...
def reward(
    marked: Callable[..., Any] | None = None, /, **options: Any
) -> RewardFunction | Callable[[Callable[..., Any]], RewardFunction]:
    """Mark a function, or a class with `score` or `__call__`, as a reward.

    `weight` is what it counts in the total where the recipe says nothing else; a dict's entries share it. After
    `timeout_s` it is given up, and tried `retries` times more, as after an exception. With `group=True` it sees all
    rollouts of a task at once (`task`, `answers`, `rollouts`) and returns a list. `run_in="process"` is a worker
    process that can be killed: the rule for sync functions of a reward file; `"thread"` is the rule for all others.
    A class is made once per process, on first use.

    Raises RewardError where it asks for a parameter nobody can give it.
    """
    return RewardFunction(marked) if marked else lambda later: RewardFunction(later, **options)


def _called(marked: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return what will be called, its signature without `self`."""
    if not inspect.isclass(marked):
        return marked if inspect.isroutine(marked) else marked.__call__
    method = getattr(marked, "score", None) or marked.__dict__.get("__call__")
    if method is None:
        raise RewardError(f"reward {name!r}: the class has neither `score` nor `__call__`; write one")
    # Bound to anything, so that inspect leaves the first parameter out.
    return method.__get__(object())
