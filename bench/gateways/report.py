"""Figures as tables, each beside its floor. What they are held to is `goals`."""

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from gateways.gateway import Gateway, Missing
from gateways.measure import KINDS, SLOW_C, SLOW_S, TOKENS_PER_S, USUAL, Cell, Events, Kind, Long, Memory, Streams

NONE = "-"
KIBIBYTE = 1024
BUSY = 0.05


class Findings(Struct, kw_only=True):
    """What was measured of one gateway; None and nothing where it was not."""

    name: str
    engine_sends: str
    native: bool
    note: str = ""
    cells: list[Cell] = []
    memory: Memory | None = None
    events: list[Events] = []
    slow: Cell | None = None
    streams: Streams | None = None
    turns: Long | None = None
    said: str = ""
    waited: float = 0.0
    """Share of the time in which the process was ready to run and had no core."""

    def cell(self, kind: Kind, c: int, *, stream: bool) -> Cell | None:
        """Return the figures of these calls, where there are any."""
        found = [cell for cell in self.cells if (cell.kind, cell.c, cell.stream) == (kind, c, stream) and cell.calls]
        return found[0] if found else None


class All(Struct, frozen=True, kw_only=True):
    """Everything that was measured in one run."""

    native: Findings
    chat: Findings
    floor: Findings
    ours: Findings
    peers: Mapping[str, Findings]
    missing: Sequence[Missing]

    def rows(self) -> list[Findings]:
        return [self.native, self.chat, self.floor, self.ours, *self.peers.values()]

    def direct(self, findings: Findings) -> Findings:
        """Return the engine called directly, in the way this gateway calls it."""
        return self.native if findings.native else self.chat


def findings_of(gateway: Gateway) -> Findings:
    return Findings(name=gateway.name, engine_sends=gateway.engine_sends, native=gateway.native, note=gateway.note)


def printed(found: All) -> Iterator[str]:
    """Yield the report's lines."""
    yield from calls_tables(found)
    yield from memory_table(found)
    yield from events_table(found)
    yield from slow_table(found)
    yield from streams_table(found)
    yield from turns_table(found)
    yield from notes(found)


def calls_tables(found: All) -> Iterator[str]:
    """Yield one table per gateway and kind of call."""
    if found.ours.cells:
        yield from (
            "",
            "Calls. Streams come as fast as they are read: the pass-through forwards events together.",
        )
    for row in found.rows():
        for kind in (kind for kind in KINDS if any(cell.kind == kind for cell in row.cells)):
            yield from ("", f"{row.name}: {kind}", f"  engine sends {row.engine_sends}")
            if row.note:
                yield f"  {row.note}"
            head = ("", "c", "calls", "calls/s", "CPU ms", "x floor", "p50 ms", "added", "p99 ms", "added", "errors")
            yield from table(head, [cell_row(found, row, cell) for cell in row.cells if cell.kind == kind])


def cell_row(found: All, row: Findings, cell: Cell) -> list[str]:
    floor = found.floor.cell(USUAL, cell.c, stream=cell.stream)
    direct = found.direct(row).cell(USUAL, cell.c, stream=cell.stream)
    return [
        "streamed" if cell.stream else "plain",
        str(cell.c),
        str(cell.calls),
        f"{cell.rate:.0f}",
        f"{cell.cpu_ms:.3f}",
        f"{cell.cpu_ms / floor.cpu_ms:.1f}" if floor else NONE,
        f"{cell.p50_ms:.2f}",
        f"{cell.p50_ms - direct.p50_ms:+.2f}" if direct else NONE,
        f"{cell.p99_ms:.2f}",
        f"{cell.p99_ms - direct.p99_ms:+.2f}" if direct else NONE,
        f"{cell.errors} {cell.error[:80]}" if cell.errors else "0",
    ]


def memory_table(found: All) -> Iterator[str]:
    rows = [
        [row.name, str(row.memory.calls), f"{row.memory.kept / KIBIBYTE:.2f}", f"{row.memory.resident / 2**20:.0f}"]
        for row in found.rows()
        if row.memory
    ]
    if rows:
        yield from ("", "Resident memory of the process's own (RssAnon), every call in a session of its own")
        yield from table(("", "calls", "KiB kept a call", "MiB in all"), rows)


def events_table(found: All) -> Iterator[str]:
    rows = [
        [
            row.name,
            ("deltas" if item.deltas else "cumulative") if row.native else "chat chunks",
            str(item.streams),
            f"{item.per_s:.0f}",
            f"{item.cpu_us:.1f}",
            f"{item.cpu_us / found.floor.events[0].cpu_us:.1f}" if found.floor.events else NONE,
            f"{1e6 / item.cpu_us:.0f}",
            f"{item.per_token:.3f}",
            f"{item.first_p50_ms:.1f}",
            f"{item.errors} {item.error[:80]}" if item.errors else "0",
        ]
        for row in found.rows()
        for item in row.events
    ]
    if rows:
        yield from ("", f"Streams of {TOKENS_PER_S} tokens a second each (the cost of each call is in its events')")
        head = (
            "",
            "engine",
            "streams",
            "events/s",
            "CPU us",
            "x floor",
            "events/s a core",
            "per token",
            "first ms",
            "errors",
        )
        yield from table(head, rows)


def slow_table(found: All) -> Iterator[str]:
    rows = [
        [
            row.name,
            str(row.slow.calls),
            f"{row.slow.p50_ms:.2f}",
            f"{row.slow.p50_ms - direct.p50_ms:+.2f}",
            f"{row.slow.p99_ms:.2f}",
            f"{row.slow.p99_ms - direct.p99_ms:+.2f}",
            f"{row.slow.errors} {row.slow.error[:80]}" if row.slow.errors else "0",
        ]
        for row in found.rows()
        if row.slow and (direct := found.direct(row).slow)
    ]
    if rows:
        yield from ("", f"An engine that takes {SLOW_S * 1000:.0f} ms, c = {SLOW_C}, calls spread over that time")
        yield from table(("", "calls", "p50 ms", "added", "p99 ms", "added", "errors"), rows)


def streams_table(found: All) -> Iterator[str]:
    rows = [
        [
            row.name,
            str(row.streams.asked),
            f"{row.streams.tokens_per_s:g}",
            str(row.streams.open),
            str(row.streams.finished),
            f"{row.streams.events / max(1, row.streams.finished):.1f}",
            f"{row.streams.wall_s:.1f}",
            f"{row.streams.errors} {row.streams.error[:80]}".strip(),
        ]
        for row in found.rows()
        if row.streams
    ]
    if rows:
        yield from ("", "Many streams at once")
        yield from table(
            ("", "streams", "tokens/s each", "open at once", "finished", "events each", "s", "errors"), rows
        )


def turns_table(found: All) -> Iterator[str]:
    rows = [
        [
            row.name,
            f"{row.turns.short_ms:.2f}",
            f"{row.turns.last_ms:.2f}",
            f"{row.turns.last_ms / row.turns.short_ms:.2f}",
            f"{row.turns.request_bytes / KIBIBYTE:.0f}",
            row.turns.error[:80] or "0",
        ]
        for row in found.rows()
        if row.turns
    ]
    if rows:
        most = max(row.turns.turns for row in found.rows() if row.turns)
        yield from ("", f"CPU ms a turn, one session at a time: second of 2, and last 10 of {most}")
        yield from table(("", "of 2", f"of {most}", "ratio", "last request KiB", "errors"), rows)


def notes(found: All) -> Iterator[str]:
    """Yield what has to be known of the figures."""
    yield ""
    for row in found.rows():
        if row.said:
            yield f"{row.name}: {row.said}"
        if row.waited > BUSY:
            yield f"{row.name}: waited {row.waited:.0%} of the time for a core: the machine was busy, repeat the run"
    for peer in found.missing:
        yield f"{peer.name}: not installed: {peer.remedy}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield aligned lines: the first column to the left, the others to the right."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        first, *others = zip(line, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]
        yield "  " + "  ".join(cells).rstrip()
