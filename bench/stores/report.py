"""The figures as tables, and what they are held to."""

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from gateways.gateway import Missing
from gateways.goals import Goal
from gateways.report import BUSY, NONE, table
from stores.measure import Assembled, Memory, Rate, Reading, slope

MIB = 2**20
FLOOR_SHARE, OVER_AGENT_LIGHTNING, OVER_PHOENIX = 0.6, 10, 40
SPAN_BYTES = 6_500
FLAT = 16
"""Bytes kept a call that count as none: 16 MiB over a million."""


class Disk(Struct, frozen=True, kw_only=True):
    """What conversations take."""

    span: float
    new_token: float
    bound: float


class All(Struct, frozen=True, kw_only=True):
    """Everything that was measured in one run."""

    rates: Sequence[Rate]
    payload: str
    """The load with full prompts, which goals are about."""
    payload_tokens: int
    disk: Disk
    readings: Sequence[Reading]
    memory: Sequence[Memory]
    assembled: Sequence[Assembled]
    missing: Sequence[Missing]
    names: Mapping[str, str]
    """Of servers: ours, floor, agent_lightning, phoenix."""

    def best(self, kind: str, load: str) -> Rate | None:
        """Return a server's highest rate; each is measured at the concurrency it likes best."""
        found = [rate for rate in self.rates if (rate.server, rate.load) == (self.names[kind], load)]
        return max(found, key=lambda rate: rate.per_s) if found else None


def printed(found: All) -> Iterator[str]:
    """Yield the report's lines."""
    yield from ("", "Spans stored durably (Agent Lightning: in memory), server on one core, requests of 32 spans")
    head = ("", "spans", "spans/s", "MB/s", "CPU us a span", "disk bytes a span", "errors")
    yield from table(head, [_rate(rate) for rate in found.rates])
    if (ours := found.best("ours", found.payload)) and ours.disk:
        yield f"  {found.payload}: {ours.disk / found.payload_tokens:.2f} bytes on disk a token"
    disk = found.disk
    yield (
        f"  conversations: {disk.span:.0f} bytes on disk a span, {disk.new_token:.2f} a new token with its text; "
        f"entropy of its id and logprob alone: {disk.bound:.2f} bytes"
    )
    yield from ("", "Tokens read out over HTTP, by one client")
    rows = [[one.what, str(one.tokens), f"{one.per_s:.0f}", f"{one.cpu_ns:.0f}"] for one in found.readings]
    yield from table(("", "tokens", "tokens/s", "CPU ns a token"), rows)
    yield from ("", "Resident memory of ingest's own (RssAnon)")
    yield from table(("calls", "MiB"), [[str(one.calls), f"{one.resident / MIB:.1f}"] for one in found.memory])
    peak = max(one.peak for one in found.memory) / MIB
    yield f"  slope: {slope(found.memory):.1f} bytes a call; peak with mapped files (VmHWM): {peak:.0f} MiB"
    yield from ("", "Assembly of one session, CPU in process")
    yield from table(("tokens", "ns a token"), [[str(one.tokens), f"{one.cpu_ns:.1f}"] for one in found.assembled])
    yield f"  slope: {_added(found.assembled):.1f} ns for each token that a session has more"
    yield ""
    for rate in found.rates:
        if rate.waited > BUSY:
            yield f"{rate.server}, {rate.load}: waited {rate.waited:.0%} of the time for a core: repeat the run"
    for peer in found.missing:
        yield f"{peer.name}: not installed: {peer.remedy}"


def goals(found: All) -> Iterator[str]:
    """Yield what is held and what is missed."""
    ours = found.best("ours", found.payload)
    listed = [
        Goal(f"spans/s over the floor's, {found.payload}", FLOOR_SHARE, _over(found, "floor"), at_most=False),
        Goal(f"the same by CPU time a span, {found.payload}", FLOOR_SHARE, _cpu(found), at_most=False),
        Goal("spans/s over Agent Lightning's", OVER_AGENT_LIGHTNING, _over(found, "agent_lightning"), at_most=False),
        Goal("spans/s over Phoenix's", OVER_PHOENIX, _over(found, "phoenix"), at_most=False),
        Goal("disk bytes a span, conversations", SPAN_BYTES, found.disk.span),
        Goal("bytes of memory kept a call, second half", FLAT, slope(found.memory)),
        Goal("assembly, ns a token, longest over shortest", 1.5, _growth(found.assembled)),
        Goal("errors", 0, float(sum(rate.errors for rate in found.rates)) if ours else None),
    ]
    yield from ("", "Goals")
    yield from table(("", "goal", "measured", ""), [goal.line() for goal in listed])


def _rate(rate: Rate) -> list[str]:
    return [
        f"{rate.server}: {rate.load}",
        str(rate.spans),
        f"{rate.per_s:.0f}",
        f"{rate.mb_per_s:.1f}",
        f"{rate.cpu_us:.1f}",
        NONE if rate.disk is None else f"{rate.disk:.0f}",
        f"{rate.errors} {rate.error[:80]}".strip(),
    ]


def _over(found: All, kind: str) -> float | None:
    ours, theirs = found.best("ours", found.payload), found.best(kind, found.payload)
    return ours.per_s / theirs.per_s if ours and theirs else None


def _cpu(found: All) -> float | None:
    """Return the floor's CPU time over ours: what neighbours on the machine disturb least."""
    ours, floor = found.best("ours", found.payload), found.best("floor", found.payload)
    return floor.cpu_us / ours.cpu_us if ours and floor else None


def _added(found: Sequence[Assembled]) -> float:
    """Return what a token more costs, between the shortest and the longest session."""
    first, last = found[0], found[-1]
    return (last.cpu_ns * last.tokens - first.cpu_ns * first.tokens) / (last.tokens - first.tokens)


def _growth(found: Sequence[Assembled]) -> float | None:
    return found[-1].cpu_ns / found[0].cpu_ns if found else None
