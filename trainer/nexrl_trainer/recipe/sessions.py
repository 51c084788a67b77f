"""The `sessions` part of a recipe: learning from sessions that nobody planned, judged by what is said of them later."""

from typing import Annotated, Literal

from msgspec import Meta, field

from nexrl.rewards import TOTAL
from nexrl_ingest.client import External
from nexrl_trainer.recipe.part import NotNegative, Part, Seconds


class Sessions(Part, frozen=True, kw_only=True):
    feedback: dict[str, float] = field(default_factory=dict[str, float])
    """Rewards that users and applications give (`POST /api/sessions/{id}/rewards`, `nexrl.emit_reward`), by name, and
    what each counts in the total. A session is learned from once it has them."""
    feedback_s: Seconds = 604800.0
    """A session that was silent for so long without its feedback counts as left without; a week."""
    missing: Literal["wait", "zero"] = "wait"
    """After `feedback_s`, a session that has some of its feedback is waited for all the same, or what it lacks counts
    0. One without any is never learned from."""
    agent: bool = False
    """Rewards that an agent gave itself, with its own key, are feedback too."""
    reward: str | None = None
    """Python file with functions marked `@nexrl.reward`, which judge what was said: they may ask for `messages`,
    `answer` (the last reply), `calls` and `steps`. Their rewards count beside the feedback."""
    idle_s: Annotated[float, Meta(ge=0)] = 300.0
    """A session is over once it made no call for so long."""
    group: Literal["session", "key"] = "session"
    """`session`: each stands for itself, `rollouts.groups_per_step` of them a step. `key`: those with the same
    `x-nexrl-group` are compared, `rollouts.group_size` in a group."""
    tags: dict[str, str] = field(default_factory=dict[str, str])
    """Only sessions with all of these tags (`nexrl.tag`)."""
    max_staleness: NotNegative | None = None
    """Groups whose oldest token is more weight versions behind are left out; none trains all. What was sampled by older
    weights is corrected by the ratio of the loss, or as `algorithm.importance` says."""

    def __post_init__(self) -> None:
        if not self.feedback and not self.reward:
            raise ValueError(
                "sessions: nothing says what a session was worth; name feedback, {thumbs: 1}, or a file of reward "
                "functions in sessions.reward"
            )
        if TOTAL in self.feedback:
            raise ValueError(f"sessions.feedback.{TOTAL}: that is the name of the weighted sum; use another")
        for name in ("feedback_s", "missing", "agent"):
            if not self.feedback and name in self.changed():
                raise ValueError(
                    f"sessions.{name} is about feedback, and there is none in sessions.feedback: remove it"
                )

    def external(self, group_size: int) -> External:
        """Return what ingest is asked for."""
        return External(
            idle_s=self.idle_s,
            group=self.group,
            size=group_size,
            feedback=sorted(self.feedback),
            feedback_s=self.feedback_s,
            partial=self.missing == "zero",
            agent=self.agent,
            tags=self.tags,
        )
