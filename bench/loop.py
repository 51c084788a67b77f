"""Seconds a step takes with rollouts that run ahead of the trainer, against rollouts that wait for it.

    python bench/loop.py

`bench/waiting`: agents that wait half their time, on the quick start's model and the embedded engine. Runs of the two
kinds take turns; the first step of each, in which nothing can run ahead, does not count.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

HERE = Path(__file__).parent
MODEL_SCRIPT = HERE.parent / "recipes/quickstart/make_model.py"
RUN_S = 900.0


def steps(folder: Path, model: Path, max_staleness: int) -> list[dict[str, Any]]:
    """Run the recipe once; return its steps' lines without the first one's."""
    command = [str(Path(sys.executable).with_name("nexrl-train")), str(HERE / "waiting/recipe.yaml")]
    command += ["--run", str(folder), f"rollouts.max_staleness={max_staleness}"]
    done = subprocess.run(
        command,
        check=False,
        env={**os.environ, "BENCH_MODEL": str(model)},
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    if done.returncode:
        raise typer.BadParameter(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "step"][1:]


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each kind.")] = 3,
    staleness: Annotated[int, typer.Option(min=1, help="rollouts.max_staleness of the asynchronous runs.")] = 2,
) -> None:
    """Measure synchronous and asynchronous steps of one workload."""
    kinds = {"synchronous": 0, f"asynchronous, max_staleness {staleness}": staleness}
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model"
        subprocess.run([sys.executable, MODEL_SCRIPT, "--out", model, "--steps", "20"], check=True, timeout=RUN_S)
        for number in range(rounds):
            for kind, max_staleness in kinds.items():
                print(f"round {number + 1}/{rounds}: {kind}", flush=True)
                found[kind] += steps(Path(name) / f"{max_staleness}-{number}", model, max_staleness)
    means: list[float] = []
    for kind, lines in found.items():
        laps = {lap: statistics.fmean(line[lap] for line in lines) for lap in ("rollout_s", "train_s", "publish_s")}
        means.append(sum(laps.values()))
        idle = {name: statistics.fmean(line[name] for line in lines) for name in ("trainer_idle", "agents_idle")}
        print(
            f"{kind}: {means[-1]:.2f} s a step (waiting for rollouts {laps['rollout_s']:.2f}, training "
            f"{laps['train_s']:.2f}, publishing {laps['publish_s']:.2f}); trainer idle {idle['trainer_idle']:.0%}, "
            f"agents' slots idle {idle['agents_idle']:.0%}, staleness up to {max(x['staleness_max'] for x in lines)}"
        )
    print(f"asynchronous is {means[0] / means[1]:.2f} times as fast (goal: at least 1.6)")


if __name__ == "__main__":
    typer.run(main)
