"""The measurements: spans a second, bytes on disk, tokens read out, memory kept, and what assembly costs.

Rates are of durable spans: from the first request to the last acknowledgement, or to the last row where a server
answers before it stores. CPU time is the server's, user and system, all its threads.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from gateways.processes import Process
from nexrl.records import Attempt, Call, Group, Outcome, Task
from nexrl_ingest.assembly import sequences
from nexrl_ingest.client import IngestClient
from stores import workload
from stores.servers import Server
from stores.wire import Body, Send, Sent, Stream
from stores.workload import Made

PATIENCE_S = 600.0
RUN, GROUP_SIZE, LEASED_AT_ONCE = "bench", 8, 4
MICRO = 1_000_000
TURN_TOKENS = 600
REPEATS = 9
"""Of assembly, of which the fastest counts."""


class Rate(Struct, frozen=True, kw_only=True):
    """How fast spans were stored."""

    server: str
    load: str
    spans: int
    per_s: float
    mb_per_s: float
    """Of serialised spans, unpacked."""
    cpu_us: float
    waited: float
    """Share of the time in which the server was ready to run and had no core."""
    errors: int
    error: str
    disk: float | None = None
    """Bytes a span in the server's directory, once it has stopped."""


class Reading(Struct, frozen=True, kw_only=True):
    """How fast tokens came out."""

    what: str
    tokens: int
    per_s: float
    cpu_ns: float
    """The server's, a token."""


class Memory(Struct, frozen=True, kw_only=True):
    """Resident bytes of the server's own (RssAnon) after so many calls."""

    calls: int
    resident: int
    peak: int
    """Of all resident bytes so far, those of mapped files too (VmHWM)."""


class Assembled(Struct, frozen=True, kw_only=True):
    """What laying out a session of one chain costs."""

    tokens: int
    cpu_ns: float
    """A token."""


class Load:
    """Bodies that are sent to one server after the other."""

    def __init__(self, name: str, spans: Sequence[bytes], process: Process, folder: Path) -> None:
        self.name = name
        self._spans = spans
        self._process = process
        self._folder = folder
        self._path = self._written("all", list(workload.bodies(spans)))

    def rate(self, server: Server, *, c: int, part: slice | None = None) -> Rate:
        """Send everything, or some of the spans, and wait until it is stored."""
        path = self._for(server, part or slice(None)) if part or server.names else self._path
        cpu_s, waited_s = server.process.cpu_s(), server.process.waited_s()
        before = server.stored() if server.stored else 0
        asked = Send(url=server.traces, headers=server.headers, path=str(path), c=c, packed=server.packed)
        sent = ask(self._process, asked)
        answered = time.perf_counter()
        server.settle(before + sent.spans)
        wall_s = sent.wall_s + (time.perf_counter() - answered if server.stored else 0.0)
        spans = max(1, sent.spans)
        return Rate(
            server=server.name,
            load=self.name,
            spans=sent.spans,
            per_s=sent.spans / wall_s,
            mb_per_s=sent.plain_bytes / wall_s / MICRO,
            cpu_us=(server.process.cpu_s() - cpu_s) / spans * MICRO,
            waited=(server.process.waited_s() - waited_s) / wall_s,
            errors=sent.errors,
            error=sent.error,
        )

    def _for(self, server: Server, part: slice) -> Path:
        names, spans = server.names, self._spans[part]
        if names:
            spans = [workload.as_text(span, names[place % len(names)]) for place, span in enumerate(spans)]
        return self._written("part", list(workload.bodies(spans)))

    def _written(self, kind: str, bodies: list[Body]) -> Path:
        path = self._folder / f"{self.name.replace(' ', '-')}-{kind}.bodies"
        path.write_bytes(msgspec.msgpack.encode(bodies))
        return path


def ask(load: Process, asked: Send | Stream) -> Sent:
    return msgspec.json.decode(load.ask(msgspec.json.encode(asked), PATIENCE_S), type=Sent)


def memory(server: Server, load: Process, calls: int, steps: int) -> list[Memory]:
    """Send small calls; return what the server held after each of some equal parts of them."""
    found: list[Memory] = []
    for step in range(steps):
        sent = ask(load, Stream(url=server.traces, headers=server.headers, calls=calls // steps, c=8))
        if sent.errors:
            raise SystemExit(f"{server.name}: {sent.error}")
        found.append(
            Memory(calls=(step + 1) * (calls // steps), resident=server.process.anonymous(), peak=_peak(server))
        )
    return found


def _peak(server: Server) -> int:
    status = Path(f"/proc/{server.process.popen.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def slope(found: Sequence[Memory]) -> float:
    """Return bytes kept a call in the second half, by least squares.

    SQLite's cache of pages fills over the first 120,000 calls or so: a shorter run shows that, not what is kept.
    """
    kept = found[len(found) // 2 :]
    mean_x = sum(one.calls for one in kept) / len(kept)
    mean_y = sum(one.resident for one in kept) / len(kept)
    return sum((one.calls - mean_x) * (one.resident - mean_y) for one in kept) / sum(
        (one.calls - mean_x) ** 2 for one in kept
    )


async def readings(server: Server, sessions: Sequence[Sequence[Made]]) -> list[Reading]:
    """Lease everything as groups for training, and read every session's calls."""
    _, key = server.headers["Authorization"].split()
    async with IngestClient(server.url, key) as client, asyncio.timeout(PATIENCE_S):
        await _plan(client, sessions)
        return [await _leased(client, server), await _called(client, server, sessions)]


async def _plan(client: IngestClient, sessions: Sequence[Sequence[Made]]) -> None:
    for start in range(0, len(sessions) // GROUP_SIZE * GROUP_SIZE, GROUP_SIZE):
        group = Group(id=f"group-{start}", run=RUN, task=Task(id=f"task-{start}", fields={}), size=GROUP_SIZE)
        await client.put_group(group)
        for rollout, turns in enumerate(sessions[start : start + GROUP_SIZE]):
            attempt = turns[0].call.session
            await client.put_attempt(Attempt(id=attempt, group=group.id, rollout=rollout))
            await client.put_outcome(attempt, Outcome(status="completed", calls=len(turns)))


async def _leased(client: IngestClient, server: Server) -> Reading:
    cpu_s, begun, tokens = server.process.cpu_s(), time.perf_counter(), 0
    while grants := await client.lease(RUN, limit=LEASED_AT_ONCE):
        tokens += sum(len(one.ids) for grant in grants for found in grant.group.trajectories for one in found.sequences)
        await client.ack([grant.lease for grant in grants])
    return _reading("training groups leased", tokens, begun, server.process.cpu_s() - cpu_s)


async def _called(client: IngestClient, server: Server, sessions: Sequence[Sequence[Made]]) -> Reading:
    cpu_s, begun, tokens = server.process.cpu_s(), time.perf_counter(), 0
    for turns in sessions:
        tokens += sum(tokens_of(call) for call in await client.calls(turns[0].call.session))
    return _reading("GET /calls", tokens, begun, server.process.cpu_s() - cpu_s)


def _reading(what: str, tokens: int, begun: float, cpu_s: float) -> Reading:
    wall_s = time.perf_counter() - begun
    return Reading(what=what, tokens=tokens, per_s=tokens / wall_s, cpu_ns=cpu_s / max(1, tokens) * 1e9)


def tokens_of(call: Call) -> int:
    """Return how many tokens a call brings that its parent does not have."""
    return len(call.prompt_delta) + len(call.completion)


def assembled(turns: Iterable[int]) -> list[Assembled]:
    """Lay out sessions of so many turns each, in this process."""
    found: list[Assembled] = []
    for count in turns:
        speaker, parent = workload.Speaker(6), None
        calls: list[Call] = []
        for turn in range(count):
            call = speaker.call("session", speaker.spoken(TURN_TOKENS // 2), TURN_TOKENS // 2, parent)
            parent = call.id
            calls.append(msgspec.structs.replace(call, started_ns=turn))
        tokens = sum(map(tokens_of, calls))
        best_s = min(_timed(calls) for _ in range(REPEATS))
        found.append(Assembled(tokens=tokens, cpu_ns=best_s / tokens * 1e9))
    return found


def _timed(calls: list[Call]) -> float:
    begun = time.process_time()
    [sequence] = sequences.sequences(calls)
    assert len(sequence.ids) == sum(map(tokens_of, calls))
    return time.process_time() - begun


def read_out(server: Server, sessions: Sequence[Sequence[Made]]) -> list[Reading]:
    return asyncio.run(readings(server, sessions))
