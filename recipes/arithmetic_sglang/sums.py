"""What the recipe asks: all sums of two small numbers. Run this file to write train.jsonl and heldout.jsonl.

A model of 135 million parameters gets some of them right some of the time, so that the rollouts of a group differ.
"""

import itertools
import json
import random
from pathlib import Path

HERE = Path(__file__).parent
LARGEST = 15
HELDOUT_ROWS = 40


def rows() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return the training rows and the held-out rows: always the same, no sum twice."""
    drawn = list(itertools.product(range(1, LARGEST + 1), repeat=2))
    random.Random("arithmetic_sglang").shuffle(drawn)
    return _rows("train", drawn[HELDOUT_ROWS:]), _rows("heldout", drawn[:HELDOUT_ROWS])


def _rows(split: str, drawn: list[tuple[int, int]]) -> list[dict[str, str]]:
    question = "What is {} + {}? Answer with the number only."
    return [
        {"id": f"{split}-{number:04}", "question": question.format(a, b), "answer": str(a + b)}
        for number, (a, b) in enumerate(drawn, start=1)
    ]


def main() -> None:
    for split, split_rows in zip(("train", "heldout"), rows(), strict=True):
        text = "".join(json.dumps(row) + "\n" for row in split_rows)
        (HERE / f"{split}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
