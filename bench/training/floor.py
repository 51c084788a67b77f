"""The floor: `python -m training.floor FOLDER`: how long the products of a step take at the rate of one product alone.

Packed: every token once through the layers, the prompt of a group once in all, and the trained ones through the head.
A backward pass is two products for each one forward. Norms, softmax, optimizer and memory count nothing.
"""

import sys
import time
from pathlib import Path

import torch

from training.rounds import serve
from training.workload import HEADS, HIDDEN, INTERMEDIATE, KEY_HEADS, LAYERS, VOCABULARY, Rollout, read_group, trained

SECONDS = 0.5
SIDES = (2048, HIDDEN, INTERMEDIATE)
"""A product as large as the model's own."""


def operations(group: list[Rollout], *, shared: bool = True) -> float:
    """Return the floating point operations of a step; unless `shared`, each sequence has its prompt for itself."""
    prompt = len(group[0].prompt)
    prompts = 1 if shared else len(group)
    lengths = [len(item.completion) for item in group]
    tokens = prompts * prompt + sum(lengths)
    head = HIDDEN // HEADS
    projections = HIDDEN * head * (2 * HEADS + 2 * KEY_HEADS) + 3 * HIDDEN * INTERMEDIATE
    pairs = prompts * prompt**2 / 2 + sum(length * prompt + length**2 / 2 for length in lengths)
    layers = LAYERS * (2 * projections * tokens + 4 * pairs * HIDDEN)
    return 3 * (layers + 2 * HIDDEN * VOCABULARY * trained(group))


def rate() -> float:
    """Return floating point operations a second."""
    rows, inner, columns = SIDES
    left, right = torch.randn(rows, inner), torch.randn(inner, columns)
    began, times = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        left @ right
        times += 1
    return 2 * rows * inner * columns * times / (time.perf_counter() - began)


def main(folder: Path) -> None:
    """Serve the rate; the seconds follow from it."""
    torch.set_num_threads(1)
    needed = operations(read_group(folder))
    serve(lambda: needed / rate())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
