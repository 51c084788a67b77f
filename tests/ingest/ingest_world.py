"""What the tests of this folder share: calls with little in them, and a way to speak to a running ingest."""

import itertools
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from nexrl.keys import attempt_key
from nexrl.records import Attempt, Call, Float32s, Group, Int32s, Outcome, Task
from nexrl.spans import span_of
from nexrl_ingest.store import Store

ADMIN_KEY = "an-admin-key-for-tests"
_clock = itertools.count(1)


def call(prompt: Iterable[int], completion: Iterable[int], **fields: Any) -> Call:
    """A call whose logprobs are -1/8, -2/8, ... and that starts after every earlier one."""
    sampled = Int32s(completion)
    defaults: dict[str, Any] = {
        "id": secrets.token_hex(8),
        "session": "session-1",
        "prompt_delta": Int32s(prompt),
        "completion": sampled,
        "logprobs": Float32s([-(index + 1) / 8 for index in range(len(sampled))]),
        "weight_versions": Int32s([3] * len(sampled)),
        "started_ns": next(_clock),
    }
    return Call(**(defaults | fields))


def request_of(*spans: Call | Span) -> ExportTraceServiceRequest:
    as_spans = [span_of(item, prompt_tokens=0) if isinstance(item, Call) else item for item in spans]
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=as_spans)])])


@dataclass
class Ingest:
    url: str
    http: aiohttp.ClientSession
    store: Store

    def admin(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {ADMIN_KEY}"}

    def own(self, attempt: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {attempt_key(attempt, ADMIN_KEY)}"}

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Return status and decoded JSON."""
        options.setdefault("headers", self.admin())
        async with self.http.request(method, self.url + path, **options) as response:
            return response.status, await response.json()

    async def post(self, body: bytes, key: dict[str, str] | None = None, **headers: str) -> tuple[int, bytes]:
        """POST to /v1/traces and return status and body; header names with `_` for `-`."""
        given = {"Content-Type": "application/x-protobuf"} | (self.admin() if key is None else key)
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.post(f"{self.url}/v1/traces", data=body, headers=given) as response:
            return response.status, await response.read()

    async def send(self, *spans: Call | Span) -> ExportTraceServiceResponse:
        """Store spans as the proxy does."""
        status, body = await self.post(request_of(*spans).SerializeToString())
        assert status == 200, body
        return ExportTraceServiceResponse.FromString(body)

    async def stored(self) -> int:
        return await self.store.read(lambda connection: connection.fetch("SELECT count(*) FROM spans")[0][0])


def group(id_: str = "group-1", **fields: Any) -> Group:
    return Group(**({"id": id_, "run": "run-1", "task": Task(id="task-1", fields={"a": 1}), "size": 2} | fields))


async def finish(client: Any, given: Group, **fields: Any) -> None:
    """Create a group and finish all its rollouts."""
    await client.put_group(given)
    for rollout in range(given.size):
        attempt = Attempt(id=f"{given.id}-{rollout}", group=given.id, rollout=rollout)
        await client.put_attempt(attempt)
        await client.put_outcome(attempt.id, Outcome(**({"status": "completed"} | fields)))
