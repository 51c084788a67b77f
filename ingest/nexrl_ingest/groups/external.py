"""Which of the sessions that nobody planned somebody wants to learn from, and how these stand. Data alone.

What is made of them is `adopting.py`'s part.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Name = Annotated[str, Meta(min_length=1, max_length=200)]
TagValue = Annotated[str, Meta(max_length=1000)]
DAY_S = 86_400.0


class External(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make groups of sessions that nobody planned: agents in production, say."""

    idle_s: Annotated[float, Meta(ge=0, le=30 * DAY_S)] = 300.0
    """A session is over once it made no call for this long."""
    group: Literal["session", "key"] = "session"
    """`session`: each is a group of its own. `key`: those with the same `nexrl.group` attribute are compared."""
    size: Annotated[int, Meta(ge=1, le=10_000)] = 1
    """With `key`: a group is formed of this many sessions."""
    feedback: Annotated[list[Name], Meta(max_length=100)] = []
    """Only sessions that were given rewards of all these names, each for the session as a whole."""
    feedback_s: Annotated[float, Meta(ge=0, le=3650 * DAY_S)] = 7 * DAY_S
    """A session that was silent for this long counts as left without feedback; what comes all the same is taken."""
    partial: bool = False
    """After `feedback_s` one of the names is enough."""
    agent: bool = False
    """Rewards that the session's own agent gave are feedback too."""
    tags: Annotated[dict[Name, TagValue], Meta(max_length=100)] = {}
    """Only sessions with all of these tags."""


class ExternalState(Struct, frozen=True, kw_only=True):
    """How sessions stand that nobody planned: those that are in no group yet, and groups that a run left out."""

    talking: int
    """They made a call less than `idle_s` ago."""
    waiting: int
    """Over, and still without the feedback that is asked for."""
    without_feedback: int
    """The same, for longer than `feedback_s`."""
    ready: int
    """They have all that is asked for; with `group` `key` others of the same key are missing, or the key itself."""
    dropped: dict[str, int]
    """Groups that the run's rules left out so far, by reason."""
