"""What is printed of a workload: tokens a second, memory, and how the goals were met."""

from statistics import median

from training.floor import operations
from training.sides import Measured
from training.workload import Rollout, Workload, trained

FLOOR_GOAL = 0.7
TOLERANCE = 1e-4
OURS, TRL, PLAIN, FLOOR = "NexRL", "TRL", "plain loop", "matmul floor"


def printed(workload: Workload, group: list[Rollout], found: dict[str, Measured], goal: float) -> list[str]:
    """Return a workload's lines; `goal` is how many times TRL's speed we want."""
    tokens = trained(group)
    lines = [f"{workload.name}, completions of {workload.shortest} to {workload.longest} in {workload.turns} turns:"]
    for name, measured in found.items():
        # The floor is what the machine does at its best.
        seconds = [min(measured.values)] if name == FLOOR else measured.seconds
        spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
        memory = "" if name == FLOOR else f"  {measured.peak_gb:5.2f} GB"
        lines.append(f"  {name:12} {tokens / median(seconds):8,.0f} trained tokens/s  {spread} s a step{memory}")
    ours = median(found[OURS].seconds)
    if TRL in found:
        lines.append(_goal("times TRL", median(found[TRL].seconds) / ours, goal))
    floor = min(found[FLOOR].values)
    packed = floor * operations(group, shared=False) / operations(group)
    lines.append(
        _goal("of the matmul floor of the packed batch, each sequence with its prompt", packed / ours, FLOOR_GOAL)
    )
    lines.append(_goal("of the matmul floor with the prompt computed once", floor / ours, FLOOR_GOAL))
    return lines


def refuse_different_losses(found: dict[str, Measured]) -> None:
    """End the benchmark where the sides do not compute the same loss: their speeds would say nothing."""
    losses = {name: measured.values[0] for name, measured in found.items() if name != FLOOR}
    low, high = min(losses.values()), max(losses.values())
    if high - low > TOLERANCE * max(1.0, abs(low)):
        raise SystemExit(f"the first step's losses differ, so this is not the same work: {losses}")


def _goal(what: str, value: float, goal: float) -> str:
    return f"  {value:.2f} {what}; goal {goal:.2f}: {'met' if value >= goal else 'missed'}"
