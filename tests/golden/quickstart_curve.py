"""Run the quick start with three seeds and say what became of it, in numbers that a band can be drawn around.

python tests/golden/quickstart_curve.py    records the band anew, for a change that was meant: minutes
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
BAND = Path(__file__).with_name("quickstart_band.json")
SEEDS = (1, 2, 3)
RUN_S = 3600.0
MARGIN = 1.0
"""A band reaches beyond the seeds' extremes by this share of what lies between them ..."""
LEAST = 0.1
"""... and at least by this share of their mean."""
BETTER_LOW = {"gap_max", "drift"}
"""What has no lower end but zero."""


def runs(folder: Path, *overrides: str) -> list[dict[str, float]]:
    """Return what was measured of a run for each seed."""
    found = []
    for seed in SEEDS:
        where = folder / f"seed-{seed}"
        command = [str(Path(sys.executable).with_name("nexrl-train")), str(ROOT / "recipes/quickstart/recipe.yaml")]
        command += ["--run", str(where), f"seed={seed}", *overrides]
        subprocess.run(command, check=True, env=os.environ, timeout=RUN_S)
        found.append(measured(where))
    return found


def measured(folder: Path) -> dict[str, float]:
    """Read a finished run: where its curves begin and end, and what they may never do on the way."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = {line["step"]: line for line in lines if line["kind"] == "step"}
    summary = json.loads((folder / "summary.json").read_text())

    def mean(name: str, part: slice = slice(None)) -> float:
        # A step in which no group had contrast learned nothing, and says nothing of how it learned.
        return statistics.fmean([line[name] for _, line in sorted(steps.items()) if name in line][part])

    first, last = slice(None, 2), slice(-2, None)
    return {
        "success_before": summary["success_before"],
        "success_after": summary["success_after"],
        "reward_first": mean("reward", first),
        "reward_last": mean("reward", last),
        "entropy_first": mean("entropy", first),
        "entropy_last": mean("entropy", last),
        "grad_norm": mean("grad_norm"),
        "clipped": mean("clipped"),
        "sequence_tokens": mean("sequence_tokens_mean", last),
        "gap_max": max(line["gap_max"] for line in steps.values() if "gap_max" in line),
        "drift": float(summary["drift"]),
    }


def band(found: list[dict[str, float]]) -> dict[str, list[float]]:
    """Return lowest and highest acceptable value of each number."""
    bands = {}
    for name in found[0]:
        values = [run[name] for run in found]
        room = max(MARGIN * (max(values) - min(values)), LEAST * abs(statistics.fmean(values)))
        bands[name] = [0.0 if name in BETTER_LOW else min(values) - room, max(values) + room]
    return bands


def outside(found: list[dict[str, float]], recorded: dict[str, list[float]]) -> list[str]:
    """Say which numbers of which seed left the band."""
    return [
        f"{name} of seed {seed}: {run[name]:.4g}, recorded band {low:.4g} to {high:.4g}"
        for seed, run in zip(SEEDS, found, strict=True)
        for name, (low, high) in recorded.items()
        if not low <= run[name] <= high
    ]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        BAND.write_text(json.dumps(band(runs(Path(name), *sys.argv[1:])), indent=1) + "\n")
