"""What a reward function may ask for, and how it is told: by the names of its parameters.

Pure data. Whoever runs rollouts fills them in; what nobody asks for (`needs`) need not be fetched.
"""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct, structs

from nexrl.records import Call


class Step(Struct, frozen=True, kw_only=True):
    """One thing the agent did, as its own OpenTelemetry spans tell it: a tool, a chain, a sub-agent."""

    id: str
    """The span id, 16 hexadecimal digits."""
    parent: str | None = None
    kind: Literal["llm", "tool", "agent", "chain", "retriever", "embedding", "other"] = "other"
    name: str = ""
    input: Any = None
    output: Any = None
    error: str | None = None
    started_ns: int = 0
    ended_ns: int = 0


class Rollout(Struct, frozen=True, kw_only=True):
    """A finished rollout; each field is also a parameter name that a reward function can take."""

    task: dict[str, Any]
    """The task's row in the dataset."""
    answer: str
    """What the agent printed, without surrounding whitespace."""
    messages: list[dict[str, Any]] = []
    """The conversation of the longest chain, the last reply included, as the agent sent and received it."""
    calls: list[Call] = []
    """Every model call, with its tokens, in order of arrival."""
    steps: list[Step] = []
    """What the agent's own spans tell, where it sends any."""
    exit_code: int = 0
    stdout: str = ""
    """All that the agent printed, up to its newest megabyte."""
    stderr: str = ""
    duration_s: float = 0.0
    """Wall-clock seconds from the agent's start to its end."""


PARAMETERS = (*Rollout.__struct_fields__, "rollout")
GROUP_PARAMETERS = ("task", "answers", "rollouts")
"""Of a function with `group=True`: the task is the same for all, the others are lists, one entry per rollout."""
_EMPTY = Rollout(task={}, answer="")
_FETCHED = frozenset({"messages", "calls", "steps"})


def needs(wanted: Sequence[str]) -> frozenset[str]:
    """Return what must be fetched for these parameters, of `messages`, `calls` and `steps`."""
    return _FETCHED if {"rollout", "rollouts"} & set(wanted) else _FETCHED & set(wanted)


def arguments(wanted: Sequence[str], rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Return the arguments of a function: of one rollout, or of a group where it asks for `answers` or `rollouts`."""
    [first, *_] = rollouts
    whole = {"rollout": first, "rollouts": list(rollouts), "answers": [item.answer for item in rollouts]}
    return {name: whole[name] if name in whole else getattr(first, name) for name in wanted}


def only(wanted: Sequence[str], rollout: Rollout) -> Rollout:
    """Return the rollout without what nobody asked for, so that it need not travel."""
    if {"rollout", "rollouts"} & set(wanted):
        return rollout
    kept = {*wanted, "task", *(["answer"] if "answers" in wanted else [])}
    left_out = {name: value for name, value in structs.asdict(_EMPTY).items() if name not in kept}
    return structs.replace(rollout, **left_out)
