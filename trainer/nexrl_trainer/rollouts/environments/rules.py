"""How an environment is played, and what comes of it: what a runner and its worker processes say of environments."""

from msgspec import Struct

from nexrl.records import Reward

RETURN = "environment"
"""Name of a rollout's reward: the sum of what `step` returned."""
STEP = "step"
"""Name of the reward of each call: what `step` returned for the action in its reply."""


class Rules(Struct, frozen=True, kw_only=True):
    """What a recipe says of an environment beside its file."""

    system: str | None
    """The system prompt, with `{name}`s of the task's fields."""
    max_turns: int
    """Replies after which the episode is cut off."""
    max_tokens: int | None
    """Tokens after which each reply ends; None leaves it to the proxy."""


class Played(Struct, frozen=True, kw_only=True):
    """What came of an agent's work on a task."""

    answer: str
    """The last thing it said."""
    rewards: list[Reward] = []
    """What its environment gave; those of calls name them by the ids of their replies."""
    cut_off: str = ""
    """Why it was not let go on; empty where it ended."""
