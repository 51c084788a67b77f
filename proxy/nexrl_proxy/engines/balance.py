"""Which engine a session's next request goes to. Pure; `pool` counts, checks and waits."""

from collections.abc import Sequence

from msgspec import Struct


class Load(Struct):
    """What an engine carries."""

    healthy: bool = True
    running: int = 0
    """Requests."""
    sessions: int = 0
    """Sessions that live there."""


def choose(loads: Sequence[Load], home: int | None) -> int:
    """Return the engine that takes the next request of a session that lives at `home`, if anywhere.

    A session stays while its engine is healthy, because its prefix cache is there. A new one goes where the fewest
    requests run, then where the fewest sessions live. Where no engine is healthy, health is not asked for: trying
    tells more than refusing.
    Example: running 3 1 1, sessions 0 9 2 -> the third; with a home at the first -> the first.
    """
    healthy = [index for index, load in enumerate(loads) if load.healthy]
    if home is not None and (loads[home].healthy or not healthy):
        return home
    return min(healthy or range(len(loads)), key=lambda index: (loads[index].running, loads[index].sessions, index))
