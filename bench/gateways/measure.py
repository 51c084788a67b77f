"""The measurements, each on one gateway: what a call costs, keeps and delays, and how streams and long sessions fare.

CPU time is the gateway process's (user and system, its threads and children), read before the calls and after all they
cause is done. What the figures are compared with is `report`'s.
"""

import time
from collections.abc import Callable, Sequence

from msgspec import Struct

from gateways.gateway import Bench, Gateway
from gateways.wire import Result, Run, Turns

ALL = 10**9
SLOW_S = 0.2
SLOW_C = 32
TOKENS_PER_S = 100
EVENT_STREAMS = 128
LAST_TURNS = 10
SHORT_SESSIONS = 20
Say = Callable[[str], None]


class Sizes(Struct, frozen=True, kw_only=True):
    """How much is measured."""

    concurrency: tuple[int, ...] = (1, 16, 64, 256)
    cell_s: float = 3.0
    warm_calls: int = 300
    memory_calls: int = 3000
    memory_s: float = 30.0
    events_s: float = 5.0
    slow_s: float = 8.0
    streams: int = 1000
    streams_per_s: float = 10
    """Tokens a second of each of many streams."""
    turns: int = 200
    sessions: int = 3


QUICK = Sizes(
    cell_s=0.4,
    warm_calls=100,
    memory_calls=600,
    memory_s=6.0,
    events_s=1.0,
    slow_s=1.5,
    streams=200,
    streams_per_s=50,
    turns=40,
    sessions=2,
)


class Kind(Struct, frozen=True):
    """What calls look like."""

    prompts: str
    logprobs: bool

    def __str__(self) -> str:
        prompts = "all-new prompts" if self.prompts == "new" else "shared system text and tools"
        return f"{prompts}, logprobs {'in the reply' if self.logprobs else 'not asked for'}"


USUAL = Kind("shared", logprobs=True)
KINDS = (Kind("new", logprobs=True), USUAL, Kind("shared", logprobs=False))


class Cell(Struct, frozen=True, kw_only=True):
    """Calls of one kind at one concurrency."""

    kind: Kind
    stream: bool
    c: int
    calls: int
    errors: int
    error: str
    rate: float
    cpu_ms: float
    p50_ms: float
    p99_ms: float


class Events(Struct, frozen=True, kw_only=True):
    """Streams paced as an engine paces them."""

    deltas: bool
    streams: int
    per_s: float
    cpu_us: float
    """Per event, what each call costs besides included."""
    per_token: float
    """Events that arrived for one of the engine's."""
    first_p50_ms: float
    errors: int
    error: str


class Memory(Struct, frozen=True, kw_only=True):
    calls: int
    kept: float
    """Bytes per call."""
    resident: int


class Streams(Struct, frozen=True, kw_only=True):
    asked: int
    tokens_per_s: float
    open: int
    finished: int
    errors: int
    error: str
    events: int
    wall_s: float


class Long(Struct, frozen=True, kw_only=True):
    """CPU ms of a turn: the second of two, and the last ones of many."""

    turns: int
    short_ms: float
    last_ms: float
    request_bytes: int
    error: str


def cells(bench: Bench, gateway: Gateway, kinds: Sequence[Kind], sizes: Sizes, say: Say) -> list[Cell]:
    """Measure calls at each concurrency, plain and streamed."""
    bench.set_engine()
    found: list[Cell] = []
    for kind in kinds:
        for stream in (False, True):
            most = gateway.most_streams if stream else gateway.most_plain
            for c in (c for c in sizes.concurrency if c <= most):
                run = of_kind(gateway, kind, c=c, seconds=sizes.cell_s, stream=stream)
                result, cpu_s = charged(bench, gateway, run)
                found.append(cell_of(kind, run, result, cpu_s))
                say(f"{kind}, {'streamed' if stream else 'plain'}, c={c}: {found[-1].cpu_ms:.2f} ms of CPU a call")
    return found


def of_kind(gateway: Gateway, kind: Kind, *, c: int, seconds: float, stream: bool = False, count: int = ALL) -> Run:
    return Run(
        target=gateway.target,
        c=c,
        count=count,
        seconds=seconds,
        prompts=kind.prompts,
        logprobs=kind.logprobs,
        stream=stream,
    )


def charged(bench: Bench, gateway: Gateway, run: Run) -> tuple[Result, float]:
    """Make calls; return what came of them and the CPU seconds the gateway spent until all was done."""
    before = gateway.process.cpu_s()
    result = bench.run(run)
    gateway.settle()
    return result, gateway.process.cpu_s() - before


def cell_of(kind: Kind, run: Run, result: Result, cpu_s: float) -> Cell:
    return Cell(
        kind=kind,
        stream=run.stream,
        c=run.c,
        calls=result.calls,
        errors=result.errors,
        error=result.error,
        rate=result.calls / result.wall_s,
        cpu_ms=1000 * cpu_s / max(1, result.calls),
        p50_ms=percentile_ms(result.latencies_s, 0.5),
        p99_ms=percentile_ms(result.latencies_s, 0.99),
    )


def percentile_ms(seconds: Sequence[float], share: float) -> float:
    """Return a percentile in milliseconds (nearest rank); NaN of nothing."""
    ordered = sorted(seconds)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def memory(bench: Bench, gateway: Gateway, sizes: Sizes) -> Memory:
    """Measure what the gateway's own resident memory grows by, with each call in a session of its own."""
    bench.set_engine()
    run = of_kind(gateway, USUAL, c=16, seconds=sizes.memory_s, count=sizes.memory_calls)
    before = gateway.process.anonymous()
    result, _ = charged(bench, gateway, run)
    resident = gateway.process.anonymous()
    return Memory(calls=result.calls, kept=(resident - before) / max(1, result.calls), resident=resident)


def events(bench: Bench, gateway: Gateway, sizes: Sizes, *, deltas: bool) -> Events:
    """Measure streams of 100 tokens a second each."""
    streams = min(EVENT_STREAMS, gateway.most_streams)
    bench.set_engine(period_s=1 / TOKENS_PER_S, deltas=deltas)
    result, cpu_s = charged(bench, gateway, of_kind(gateway, USUAL, c=streams, seconds=sizes.events_s, stream=True))
    bench.set_engine()
    return Events(
        deltas=deltas,
        streams=streams,
        per_s=result.events / result.wall_s,
        cpu_us=1e6 * cpu_s / max(1, result.events),
        per_token=result.events / max(1, result.calls) / 128,
        first_p50_ms=percentile_ms(result.firsts_s, 0.5),
        errors=result.errors,
        error=result.error,
    )


def slow(bench: Bench, gateway: Gateway, sizes: Sizes) -> Cell:
    """Measure an engine that takes 200 ms; calls begin spread over that time, as independent agents' do."""
    bench.set_engine(delay_s=SLOW_S)
    run = Run(target=gateway.target, c=SLOW_C, count=ALL, seconds=sizes.slow_s, prompts="shared", ramp_s=SLOW_S)
    result, cpu_s = charged(bench, gateway, run)
    bench.set_engine()
    return cell_of(USUAL, run, result, cpu_s)


def many_streams(bench: Bench, gateway: Gateway, sizes: Sizes) -> Streams:
    """Open many streams at once and count what goes wrong."""
    count = sizes.streams
    bench.set_engine(period_s=1 / sizes.streams_per_s)
    run = Run(
        target=gateway.target, c=count, count=count, seconds=60, prompts="shared", stream=True, ramp_s=count / 500
    )
    result = bench.run(run)
    gateway.settle()
    bench.set_engine()
    return Streams(
        asked=count,
        tokens_per_s=sizes.streams_per_s,
        open=result.most_open,
        finished=result.calls,
        errors=result.errors,
        error=result.error,
        events=result.events,
        wall_s=result.wall_s,
    )


def turns(bench: Bench, gateway: Gateway, sizes: Sizes) -> Long:
    """Measure the second turn of short sessions, and the last turns of long ones; new messages are equally long."""
    bench.set_engine()
    pids = gateway.process.pids
    short = bench.converse(Turns(target=gateway.target, turns=2, sessions=SHORT_SESSIONS, pids=pids))
    gateway.settle()
    time.sleep(0.2)
    long = bench.converse(Turns(target=gateway.target, turns=sizes.turns, sessions=sizes.sessions, pids=pids))
    gateway.settle()
    return Long(
        turns=sizes.turns,
        short_ms=mean([session[-1] for session in short.cpu_ms]),
        last_ms=mean([spent for session in long.cpu_ms for spent in session[-LAST_TURNS:]]),
        request_bytes=long.last_request_bytes,
        error=short.error or long.error,
    )


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
