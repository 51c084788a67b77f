"""Rollouts written by hand, for tests of reward functions: same ids and times in every run."""

from collections.abc import Mapping
from typing import Any

from nexrl.records import Call, Float32s, Int32s
from nexrl.rewards import Rollout

STARTED_NS = 1_700_000_000_000_000_000
SECOND_NS = 1_000_000_000


def rollout(
    *messages: str | Mapping[str, Any], task: Mapping[str, Any] | None = None, session: str = "test", **fields: Any
) -> Rollout:
    """Return the rollout of a conversation: texts are said by user and assistant in turn, messages are as they are.

    Each assistant message is a call that extends the one before; it starts a second after it, takes half a second, and
    has one token per word. The answer is the last assistant message's text. `fields` are further fields of the Rollout,
    and win.

    Example: rollout("2+2?", "4", task={"answer": "4"}).calls[0].id == "0000000000000001"
    """
    said: list[dict[str, Any]] = []
    for message in messages:
        said.append({"role": _next_role(said), "content": message} if isinstance(message, str) else dict(message))
    calls = _calls(said, session)
    answer = str(calls[-1].reply.get("content") or "").strip() if calls else ""
    duration_s = (calls[-1].ended_ns - STARTED_NS) / SECOND_NS if calls else 0.0
    built: dict[str, Any] = {"messages": said, "calls": calls, "duration_s": duration_s, "stdout": answer}
    built |= {"task": dict(task or {}), "answer": answer, **fields}
    return Rollout(**built)


def _next_role(said: list[dict[str, Any]]) -> str:
    return "assistant" if said and said[-1]["role"] in {"user", "tool"} else "user"


def _calls(said: list[dict[str, Any]], session: str) -> list[Call]:
    calls: list[Call] = []
    new: list[dict[str, Any]] = []
    for message in said:
        if message["role"] != "assistant":
            new.append(message)
            continue
        words = len(str(message.get("content") or "").split())
        started_ns = STARTED_NS + len(calls) * SECOND_NS
        calls.append(
            Call(
                id=f"{len(calls) + 1:016x}",
                session=session,
                parent=calls[-1].id if calls else None,
                messages=new,
                reply=message,
                completion=Int32s(range(words)),
                logprobs=Float32s([0.0] * words),
                weight_versions=Int32s([0] * words),
                started_ns=started_ns,
                ended_ns=started_ns + SECOND_NS // 2,
            )
        )
        new = []
    return calls
