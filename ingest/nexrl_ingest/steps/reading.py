"""The steps of a session, from the log: spans that name it, and those that its traces bring along.

A pure function of what is stored, so it does not matter which of them arrived first.
"""

from collections.abc import Iterable
from typing import NamedTuple

from nexrl_ingest.blocks import Found
from nexrl_ingest.span_log import OF_TRACE, spans_at
from nexrl_ingest.steps.step import Step
from nexrl_ingest.steps.understanding import understand
from nexrl_ingest.store import Connection


class Node(NamedTuple):
    """A span of a trace, as far as it decides whose the others are."""

    id: bytes
    parent: bytes
    session: str | None


def steps_of(connection: Connection, session: str) -> list[Step]:
    """Return a session's steps in order of their start; calls of the model are told apart from them."""
    traces = connection.fetch("SELECT DISTINCT trace_id FROM spans WHERE session = ?", (session,))
    steps = [step for [trace] in traces for step in _of_trace(connection, trace, session)]
    return sorted(steps, key=lambda step: (step.started_ns, step.id))


def owned(nodes: Iterable[Node], session: str) -> set[bytes]:
    """Return which spans of a trace belong to a session.

    A span that names no session belongs to that of its nearest ancestor that names one. What stands above all of them,
    or beside, is part of every session beneath it, and of a trace's only session.

    Example: agent -> [call of s1, tool], evaluator -> [call of s2] => of s1: agent, call, tool; of s2: evaluator, call
    """
    nodes = list(nodes)
    by_id = {node.id: node for node in nodes}
    above = {node.id: _ancestors(node, by_id) for node in nodes}
    inherited = {id_: next((node.session for node in line if node.session), None) for id_, line in above.items()}
    named = {node.session for node in nodes if node.session}
    spanned = {above_.id for node in nodes if node.session == session for above_ in above[node.id]}
    return {
        id_
        for id_, found in inherited.items()
        if found == session or (found is None and (id_ in spanned or named == {session}))
    }


def _of_trace(connection: Connection, trace: bytes, session: str) -> list[Step]:
    query = f"SELECT block, place, session, is_call FROM spans WHERE {OF_TRACE}"  # noqa: S608 - a condition of our own
    named = f"SELECT DISTINCT session FROM spans WHERE {OF_TRACE}"  # noqa: S608
    sessions = connection.fetch(named, (trace, trace))
    if {name for [name] in sessions if name} == {session}:
        rows = connection.fetch(f"{query} AND is_call = 0 ORDER BY seq", (trace, trace))
        return [_step(found) for found in spans_at(connection, [(block, place) for block, place, _, _ in rows])]
    rows = connection.fetch(f"{query} ORDER BY seq", (trace, trace))
    spans = list(spans_at(connection, [(block, place) for block, place, _, _ in rows]))
    pairs = list(zip(rows, spans, strict=True))
    nodes = (Node(found.span.span_id, found.span.parent_span_id, row[2]) for row, found in pairs)
    mine = owned(nodes, session)
    return [_step(found) for row, found in pairs if found.span.span_id in mine and not row[3]]


def _step(found: Found) -> Step:
    return understand(found.span, found.resource.resource)


def _ancestors(node: Node, by_id: dict[bytes, Node]) -> list[Node]:
    """Return the node and its ancestors, nearest first, as far as they are here; a cycle is walked once."""
    line: list[Node] = []
    seen: set[bytes] = set()
    found: Node | None = node
    while found and found.id not in seen:
        seen.add(found.id)
        line.append(found)
        found = by_id.get(found.parent)
    return line
