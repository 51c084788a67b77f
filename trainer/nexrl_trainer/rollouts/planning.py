"""What of planned groups is still to be run. Pure: plans and what ingest knows in, decisions out."""

from collections.abc import Mapping, Sequence

from msgspec import Struct, structs

from nexrl.records import Group
from nexrl_ingest.client import GroupState


class Position(Struct, frozen=True, kw_only=True):
    """How far a run has come with its tasks: what a checkpoint holds of it."""

    planned: int = 0
    """Groups started so far; the next one has this number."""
    open: list[int] = []
    """Those of them that are still to be trained, in order."""


def missing(group: Group, state: GroupState | None) -> list[int]:
    """Return the rollouts of a group that have no final outcome yet."""
    done = {outcome.rollout for outcome in state.outcomes} if state else set[int]()
    return [index for index in range(group.size) if index not in done]


def afresh(groups: Sequence[Group], states: Mapping[str, GroupState]) -> Sequence[Group]:
    """Plan anew, under other ids, what failed as a whole in an earlier start: the agent may have been mended."""

    def hopeless(group: Group) -> bool:
        state = states.get(group.id)
        return bool(state) and state.final == state.size and all(item.status == "failed" for item in state.outcomes)

    while groups and all(hopeless(group) for group in groups):
        groups = [structs.replace(group, id=f"{group.id}-again") for group in groups]
    return groups
