"""Groups, attempts, outcomes and rewards: what the trainer says about the sessions it planned.

Every creation is idempotent: the same content again changes nothing, other content under the same id is refused.
Which groups may be leased is decided in `pool.py`.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

from msgspec import Struct, structs

from nexrl.records import Attempt, Group, Outcome, Reward, Trajectory, decode, encode
from nexrl_ingest.assembly import sequences
from nexrl_ingest.refusals import CallsMissingError, ConflictError, NotFoundError, RefusedError
from nexrl_ingest.span_log import calls_of, count_calls
from nexrl_ingest.store import Connection
from nexrl_ingest.wire import AttemptRecord, GroupRecord, RolloutState, Tag

StructT = TypeVar("StructT", bound=Struct)
AGENT = "agent"
LARGEST_GROUP = 100_000
_LAST_NS = 2**63 - 1
_REWARDS = "SELECT name, value, call, by, at_ns, given_id, explanation FROM rewards WHERE session = ?"


def put_group(connection: Connection, group: Group) -> None:
    if not 1 <= group.size <= LARGEST_GROUP:
        raise RefusedError(f"group {group.id!r}: size {group.size}; use 1 to {LARGEST_GROUP} rollouts")
    _writable(group.id, group.run)
    if row := connection.fetch_one("SELECT body FROM groups WHERE id = ?", (group.id,)):
        _same(f"group {group.id!r}", decode(row[0], Group), group)
        return
    connection.execute(
        "INSERT INTO groups (id, run, mode, size, body) VALUES (?, ?, ?, ?, ?)",
        (group.id, group.run, group.mode, group.size, encode(group)),
    )


def put_attempt(connection: Connection, attempt: Attempt) -> None:
    _writable(attempt.group)
    row = connection.fetch_one("SELECT size FROM groups WHERE id = ?", (attempt.group,))
    if not row:
        raise NotFoundError(f"attempt {attempt.id!r}: group {attempt.group!r} is unknown; create the group first")
    if not 0 <= attempt.rollout < row[0]:
        raise RefusedError(f"attempt {attempt.id!r}: rollout {attempt.rollout} is not in a group of {row[0]}")
    if known := attempt_of(connection, attempt.id):
        _same(f"attempt {attempt.id!r}", known, attempt)
        return
    connection.execute(
        "INSERT INTO attempts (id, group_id, rollout) VALUES (?, ?, ?)",
        (attempt.id, attempt.group, attempt.rollout),
    )


def put_outcome(connection: Connection, attempt: str, outcome: Outcome, now_ns: int) -> None:
    """Finish an attempt; with the last final outcome of a group the group is complete.

    The barrier between capture and judgement: an outcome that says how many calls there were is refused until all
    of them are stored, so a finished attempt is never trained without its last spans.
    """
    known = attempt_of(connection, attempt)
    if not known:
        raise NotFoundError(f"attempt {attempt!r} is unknown; create it before its outcome")
    if earlier := outcome_of(connection, attempt):
        _same(f"outcome of attempt {attempt!r}", earlier, outcome)
        return
    arrived = count_calls(connection, attempt)
    if outcome.calls is not None and arrived < outcome.calls:
        raise CallsMissingError(
            f"attempt {attempt!r}: {arrived} of {outcome.calls} calls have arrived; "
            "send the outcome again once the proxy has delivered the others"
        )
    if outcome.final and (rival := _final_attempt(connection, known.group, known.rollout)):
        raise ConflictError(
            f"attempt {attempt!r}: rollout {known.rollout} of group {known.group!r} is final "
            f"with attempt {rival!r}; a rollout has one final attempt"
        )
    row = connection.fetch_one(
        "INSERT INTO outcomes (attempt, final, at_ns, body) VALUES (?, ?, ?, ?) RETURNING seq",
        (attempt, int(outcome.final), now_ns, encode(outcome)),
    )
    for reward in outcome.rewards:
        put_reward(connection, attempt, reward, now_ns)
    if row and outcome.final and count_final(connection, known.group) == _size(connection, known.group):
        connection.execute("UPDATE groups SET ready = ? WHERE id = ?", (row[0], known.group))


def put_reward(connection: Connection, session: str, reward: Reward, now_ns: int) -> Reward:
    """Keep a reward and return it; one that came with an id before is returned as it was kept then."""
    if not math.isfinite(reward.value):
        raise RefusedError(f"reward {reward.name!r} of session {session!r}: {reward.value} is no finite number")
    at_ns = reward.at_ns or now_ns
    if not 0 <= at_ns <= _LAST_NS:
        raise RefusedError(f"reward {reward.name!r}: at_ns {at_ns} is no time; give nanoseconds since 1970, or 0")
    _writable(session, reward.name, reward.by, reward.call or "", reward.id or "", reward.explanation)
    if reward.id is not None and (row := connection.fetch_one(f"{_REWARDS} AND given_id = ?", (session, reward.id))):
        known = _reward(row)
        # When it was sent again is not what it says.
        what = f"reward {reward.id!r} of session {session!r}, {known.name!r} = {known.value:g} by {known.by!r},"
        _same(what, known, structs.replace(reward, at_ns=known.at_ns))
        return known
    _heard_of(connection, session, now_ns)
    connection.execute(
        "INSERT INTO rewards (session, name, value, call, by, at_ns, given_id, explanation) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (session, reward.name, reward.value, reward.call, reward.by, at_ns, reward.id, reward.explanation),
    )
    return structs.replace(reward, at_ns=at_ns)


def put_tag(connection: Connection, session: str, tag: Tag, now_ns: int) -> None:
    """Keep a word about a session; of one name the latest counts."""
    _writable(session, tag.name, tag.value)
    _heard_of(connection, session, now_ns)
    connection.execute(
        "INSERT INTO tags (session, name, value) VALUES (?, ?, ?) "
        "ON CONFLICT (session, name) DO UPDATE SET value = excluded.value",
        (session, tag.name, tag.value),
    )


def tags_of(connection: Connection, session: str) -> dict[str, str]:
    return dict(connection.fetch("SELECT name, value FROM tags WHERE session = ? ORDER BY name", (session,)))


def attempt_of(connection: Connection, attempt: str) -> Attempt | None:
    row = connection.fetch_one("SELECT group_id, rollout FROM attempts WHERE id = ?", (attempt,))
    return Attempt(id=attempt, group=row[0], rollout=row[1]) if row else None


def outcome_of(connection: Connection, attempt: str) -> Outcome | None:
    row = connection.fetch_one("SELECT body FROM outcomes WHERE attempt = ?", (attempt,))
    return decode(row[0], Outcome) if row else None


def rewards_of(connection: Connection, session: str) -> list[Reward]:
    return [_reward(row) for row in connection.fetch(f"{_REWARDS} ORDER BY seq", (session,))]


def known_rewards(connection: Connection, session: str) -> list[Reward]:
    """Return a session's rewards; raises NotFoundError for a session nobody knows."""
    require_known(connection, session)
    return rewards_of(connection, session)


def knows(connection: Connection, session: str) -> bool:
    """Whether anything was ever said about a session."""
    queries = (
        "SELECT 1 FROM spans WHERE session = ? LIMIT 1",
        "SELECT 1 FROM attempts WHERE id = ? LIMIT 1",
        "SELECT 1 FROM rewards WHERE session = ? LIMIT 1",
    )
    return any(connection.fetch_one(query, (session,)) for query in queries)


def require_known(connection: Connection, session: str) -> None:
    if not knows(connection, session):
        raise NotFoundError(f"session {session!r} is unknown; no span, attempt or reward names it")


def trajectory_of(connection: Connection, session: str) -> Trajectory:
    """Assemble a session's trajectory; raises NotFoundError for a session nobody knows."""
    require_known(connection, session)
    attempt = attempt_of(connection, session)
    return sequences.trajectory(
        session,
        attempt.rollout if attempt else None,
        calls_of(connection, session),
        rewards_of(connection, session),
        outcome_of(connection, session),
    )


def group_of(connection: Connection, group_id: str) -> Group | None:
    row = connection.fetch_one("SELECT body FROM groups WHERE id = ?", (group_id,))
    return decode(row[0], Group) if row else None


def group_record(connection: Connection, group_id: str) -> GroupRecord:
    """Return a group with all its attempts; raises NotFoundError for one nobody planned."""
    group = group_of(connection, group_id)
    if not group:
        raise NotFoundError(f"group {group_id!r} is unknown; `GET /api/runs/RUN/groups` lists those of a run")
    rows = connection.fetch("SELECT id, rollout FROM attempts WHERE group_id = ? ORDER BY seq", (group_id,))
    attempts = [Attempt(id=id_, group=group_id, rollout=rollout) for id_, rollout in rows]
    return GroupRecord(
        group=group,
        attempts=[
            AttemptRecord(
                attempt=attempt,
                outcome=outcome_of(connection, attempt.id),
                rewards=rewards_of(connection, attempt.id),
            )
            for attempt in attempts
        ],
    )


def final_attempts(connection: Connection, group: str) -> list[Attempt]:
    """Return the attempts that count, in order of rollout."""
    query = (
        "SELECT attempts.id, rollout FROM attempts JOIN outcomes ON attempt = attempts.id "
        "WHERE group_id = ? AND final = 1 ORDER BY rollout"
    )
    return [Attempt(id=id_, group=group, rollout=rollout) for id_, rollout in connection.fetch(query, (group,))]


def count_final(connection: Connection, group: str) -> int:
    return len(final_attempts(connection, group))


def rollout_state(connection: Connection, attempt: Attempt) -> RolloutState:
    outcome = outcome_of(connection, attempt.id)
    assert outcome
    return RolloutState(
        rollout=attempt.rollout,
        attempt=attempt.id,
        status=outcome.status,
        reason=outcome.reason,
        rewards=named(rewards_of(connection, attempt.id)),
    )


def named(rewards: Sequence[Reward]) -> dict[str, float]:
    """Return the rewards of a rollout as a whole by name: the latest counts, and an agent's own never hides another."""
    whole = sorted((item for item in rewards if item.call is None), key=lambda item: item.by != AGENT)
    return {item.name: item.value for item in whole}


def _heard_of(connection: Connection, session: str, now_ns: int) -> None:
    """Let a session whose spans may never come be forgotten in its time; one that is known gets no older or younger."""
    connection.execute(
        "INSERT INTO sessions (id, first_ns, last_ns) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING",
        (session, now_ns, now_ns),
    )


def _reward(row: Sequence[object]) -> Reward:
    fields = zip(("name", "value", "call", "by", "at_ns", "id", "explanation"), row, strict=True)
    return Reward(**dict(fields))  # pyright: ignore[reportArgumentType]


def _final_attempt(connection: Connection, group: str, rollout: int) -> str | None:
    found = [attempt.id for attempt in final_attempts(connection, group) if attempt.rollout == rollout]
    return found[0] if found else None


def _size(connection: Connection, group: str) -> int:
    row = connection.fetch_one("SELECT size FROM groups WHERE id = ?", (group,))
    assert row
    return row[0]


def _writable(*texts: str) -> None:
    """Refuse what PostgreSQL cannot hold in a text, whatever the store is: both keep the same contract."""
    if any("\0" in text for text in texts):
        raise RefusedError("a text holds a NUL character: leave it out")


def _same(what: str, known: StructT, given: StructT) -> None:
    differing = [name for name in known.__struct_fields__ if getattr(known, name) != getattr(given, name)]
    if differing:
        raise ConflictError(f"{what} is known with other content: another {' and '.join(differing)}; use a new id")
