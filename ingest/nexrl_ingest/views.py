"""Sessions and trajectories as JSON, for people and for `curl`."""

import sqlite3
from typing import Any

import msgspec

from nexrl.records import Call, Int32s, Sequence
from nexrl_ingest import assembly, ledger
from nexrl_ingest.span_log import calls_of


def session(connection: sqlite3.Connection, session_id: str) -> dict[str, Any]:
    """Return a session's calls, chains, drift and rewards; raises NotFoundError for one nobody knows."""
    trajectory = ledger.trajectory_of(connection, session_id)
    calls = sorted(calls_of(connection, session_id), key=lambda call: (call.started_ns, call.id))
    lengths = assembly.prompt_lengths(calls)
    return {
        "session": session_id,
        "status": trajectory.status,
        "reason": trajectory.reason,
        "calls": [_call(call, lengths.get(call.id)) for call in calls],
        "chains": [sequence.calls for sequence in trajectory.sequences],
        "drift": msgspec.to_builtins(trajectory.drift),
        "rewards": msgspec.to_builtins(trajectory.rewards),
    }


def trajectory(connection: sqlite3.Connection, session_id: str) -> dict[str, Any]:
    """Return a session's sequences as plain lists; raises NotFoundError for one nobody knows."""
    found = ledger.trajectory_of(connection, session_id)
    return {
        "session": session_id,
        "status": found.status,
        "rewards": msgspec.to_builtins(found.rewards),
        "sequences": [_sequence(sequence) for sequence in found.sequences],
        "drift": msgspec.to_builtins(found.drift),
    }


def _call(call: Call, prompt_tokens: int | None) -> dict[str, Any]:
    return {
        "id": call.id,
        "parent": call.parent,
        "model": call.model,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": len(call.completion),
        "finish_reason": call.finish_reason,
        "weight_versions": _first_and_last(call.weight_versions),
        "drift": call.drift,
        "exact": call.exact,
        "agent": call.agent,
        "messages": call.messages,
        "tools": call.tools,
        "reply": call.reply,
        "started_ns": call.started_ns,
        "ended_ns": call.ended_ns,
    }


def _first_and_last(versions: Int32s) -> list[int]:
    return [versions[0], versions[-1]] if versions else []


def _sequence(sequence: Sequence) -> dict[str, Any]:
    mask = list(sequence.loss_mask)
    return {
        "ids": list(sequence.ids),
        "loss_mask": mask,
        "logprobs": [value if kept else None for value, kept in zip(sequence.logprobs, mask, strict=True)],
        "weight_versions": [
            value if kept else None for value, kept in zip(sequence.weight_versions, mask, strict=True)
        ],
        "temperatures": list(sequence.temperatures),
        "agent": sequence.agent,
    }
