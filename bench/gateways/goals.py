"""The goals, each beside its figure. Where a goal is a ratio, both sides come from the same run."""

from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from gateways import report
from gateways.measure import KINDS, USUAL, Kind


class Goal(Struct, frozen=True):
    """What a figure is held to."""

    what: str
    bound: float
    figure: float | None
    at_most: bool = True
    unit: str = ""

    def line(self) -> list[str]:
        bound = f"{'at most' if self.at_most else 'at least'} {self.bound:g}{self.unit}"
        if self.figure is None:
            return [self.what, bound, "not measured", ""]
        met = self.figure <= self.bound if self.at_most else self.figure >= self.bound
        return [self.what, bound, f"{self.figure:.2f}{self.unit}", "met" if met else "MISSED"]


def goals(found: report.All) -> Iterator[str]:
    """Yield the goals; ratios are the worst of all concurrencies."""
    ours, floor, direct = found.ours, found.floor, found.native
    listed = [
        Goal(f"CPU of a plain call over the pass-through's: {kind}", 3, worst(ratios(ours, kind, floor), max))
        for kind in KINDS
    ]
    for name, bound in (("Agent Lightning 1.0", 8), ("LiteLLM proxy", 40)):
        below = [1 / ratio for ratio in ratios(ours, USUAL, found.peers[name])] if name in found.peers else []
        listed.append(Goal(f"CPU of a plain call, so many times below {name}", bound, worst(below, min), at_most=False))
    slow, base = ours.slow, direct.slow
    listed += [
        Goal("200 ms engine, added p50", 2, slow.p50_ms - base.p50_ms if slow and base else None, unit=" ms"),
        Goal("200 ms engine, added p99", 15, slow.p99_ms - base.p99_ms if slow and base else None, unit=" ms"),
    ]
    for item in ours.events:
        shape = "deltas" if item.deltas else "cumulative"
        listed.append(Goal(f"streamed events/s a core, {shape}", 20_000, 1e6 / item.cpu_us, at_most=False))
        listed.append(Goal(f"events for one of the engine's, {shape}", 1, item.per_token, at_most=False))
    kept = ours.memory.kept / report.KIBIBYTE if ours.memory else None
    long = ours.turns
    listed += [
        Goal("resident memory kept a call", 5, kept, unit=" KiB"),
        Goal("errors among many streams", 0, float(ours.streams.errors) if ours.streams else None),
        Goal("a late turn's CPU over a second turn's", 1.5, long.last_ms / long.short_ms if long else None),
    ]
    yield from ("", "Goals (ratios: the worst of all concurrencies)")
    yield from report.table(
        ("", "goal", "measured", ""), [goal.line() for goal in listed if goal.figure is not None or ours.cells]
    )


def ratios(ours: report.Findings, kind: Kind, theirs: report.Findings) -> list[float]:
    """Return our CPU time over theirs, plain calls, at each concurrency both were measured at."""
    pairs = [(cell, theirs.cell(USUAL, cell.c, stream=False)) for cell in ours.cells]
    return [
        cell.cpu_ms / other.cpu_ms
        for cell, other in pairs
        if cell.kind == kind and not cell.stream and cell.calls and other
    ]


def worst(values: Sequence[float], pick: Callable[[Sequence[float]], float]) -> float | None:
    return pick(values) if values else None
