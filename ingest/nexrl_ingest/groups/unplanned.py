"""Sessions that nobody planned: which of them are over and have the feedback that is asked for, and how many do not.

Only reads. What is made of them is `adopting.py`'s part.
"""

from typing import Any, NamedTuple

from nexrl.keys import EVAL
from nexrl_ingest.groups import ledger
from nexrl_ingest.groups.external import External, ExternalState
from nexrl_ingest.groups.rules import SECOND_NS
from nexrl_ingest.store import Connection

UNATTRIBUTED = "unattributed"
"""What the proxy calls the session of everybody who said nothing: no session at all."""
# SQLite's LIKE folds case: an id that ends in `@EVAL` is left alone too.
_UNPLANNED = (
    f"sessions.id <> '{UNATTRIBUTED}' AND sessions.id NOT LIKE '%{EVAL}' "  # noqa: S608
    "AND NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.id = sessions.id) "
    "AND EXISTS (SELECT 1 FROM spans WHERE spans.session = sessions.id AND spans.is_call = 1)"
)
"""Sessions that can become rollouts, once they are over."""


class Query(NamedTuple):
    """Text of a query, and what stands at its question marks."""

    text: str
    parameters: tuple[Any, ...]


def ready(external: External, now_ns: int) -> Query:
    """Return the query for the sessions that can be learned from by now: `seq`, `id`, `last_ns`."""
    idle_ns, late_ns = _silent_since(external, now_ns)
    names, tagged = sorted(set(external.feedback)), _tagged(external)
    given = enough = ""
    wanted: tuple[int, ...] = ()
    if names:
        # From the rewards on: far more sessions are never judged than are.
        others = "" if external.agent else f"AND by <> '{ledger.AGENT}' "
        given = (
            f"JOIN (SELECT session, count(DISTINCT name) AS names FROM rewards WHERE name IN ({_marks(names)}) "  # noqa: S608
            f"AND call IS NULL {others}GROUP BY session) AS given ON given.session = sessions.id "
        )
        enough = "AND (names >= ? OR (? = 1 AND last_ns <= ?)) "
        wanted = (len(names), int(external.partial), late_ns)
    text = (
        f"SELECT sessions.seq AS seq, sessions.id AS id, last_ns FROM sessions {given}"  # noqa: S608 - parts of our own
        f"WHERE last_ns <= ? {enough}AND {_UNPLANNED}{tagged.text}"
    )
    return Query(text, (*names, idle_ns, *wanted, *tagged.parameters))


def standing(connection: Connection, run: str, external: External, now_ns: int) -> ExternalState:
    """Count the sessions that are in no group yet, and the groups that the run left out."""
    idle_ns, late_ns = _silent_since(external, now_ns)
    tagged, found = _tagged(external), ready(external, now_ns)
    # Late are those that are over, too, where feedback is waited for in less time than a session's end.
    late_ns = min(idle_ns, late_ns)
    counted = "count(CASE WHEN last_ns > ? THEN 1 END), count(CASE WHEN last_ns <= ? THEN 1 END)"
    [[talking, over]] = connection.fetch(
        f"SELECT {counted} FROM sessions WHERE {_UNPLANNED}{tagged.text}",  # noqa: S608 - parts of our own
        (idle_ns, idle_ns, *tagged.parameters),
    )
    [[late]] = connection.fetch(
        f"SELECT count(*) FROM sessions WHERE last_ns <= ? AND {_UNPLANNED}{tagged.text}",  # noqa: S608
        (late_ns, *tagged.parameters),
    )
    [[complete, complete_late]] = connection.fetch(
        f"SELECT count(*), count(CASE WHEN last_ns <= ? THEN 1 END) FROM ({found.text}) AS found",  # noqa: S608
        (late_ns, *found.parameters),
    )
    without = late - complete_late if external.feedback else 0
    dropped = "SELECT reason, count(*) FROM drops WHERE run = ? AND rollout < 0 GROUP BY reason ORDER BY reason"
    return ExternalState(
        talking=talking,
        waiting=over - complete - without,
        without_feedback=without,
        ready=complete,
        dropped=dict(connection.fetch(dropped, (run,))),
    )


def _tagged(external: External) -> Query:
    if not external.tags:
        return Query("", ())
    # All in one: PostgreSQL takes minutes to plan a query with a condition for each of a hundred tags.
    pairs = ", ".join(["(?, ?)"] * len(external.tags))
    having = f"SELECT session FROM tags WHERE (name, value) IN (VALUES {pairs}) GROUP BY session HAVING count(*) = ?"  # noqa: S608
    words = (word for pair in external.tags.items() for word in pair)
    return Query(f" AND sessions.id IN ({having})", (*words, len(external.tags)))


def _silent_since(external: External, now_ns: int) -> tuple[int, int]:
    """Return when a session must have made its last call to be over, and for its feedback to be late."""
    return now_ns - int(external.idle_s * SECOND_NS), now_ns - int(external.feedback_s * SECOND_NS)


def _marks(values: list[str]) -> str:
    return ", ".join("?" * len(values))
