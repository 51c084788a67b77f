"""The reward curve as a picture: `reward.png`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw_rewards(metrics: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the training reward of every step and the held-out success where it was measured."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    steps = [
        (line["step"], line["reward"]) for line in metrics if line["kind"] == "step" and line["reward"] is not None
    ]
    heldout = [(line["step"], line["success"]) for line in metrics if line["kind"] == "evaluation"]
    figure, axes = plt.subplots(figsize=(7, 4), dpi=120)
    if steps:
        axes.plot(*zip(*steps, strict=True), marker="o", color="#4477aa", label="mean reward of the step's rollouts")
    if heldout:
        axes.plot(*zip(*heldout, strict=True), marker="s", ls="--", color="#cc6677", label="held-out success")
    axes.set(xlabel="steps", ylabel="reward", title=title)
    axes.set_ylim(*_limits([value for _, value in (*steps, *heldout)]))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Show 0 to 1 whole, where rewards usually lie, and more where they do not."""
    low, high = min([0.0, *values]), max([1.0, *values])
    margin = 0.03 * (high - low)
    return low - margin, high + margin
