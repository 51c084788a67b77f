"""What the recipe asks: sums of one and two digits. Run this file to write train.jsonl and heldout.jsonl.

A model of 135 million parameters knows the small ones by half and guesses at the larger ones, so that groups differ.
"""

import json
import random
from pathlib import Path

HERE = Path(__file__).parent
TRAIN_ROWS = 1024
HELDOUT_ROWS = 128
LARGEST = 49
ONE_DIGIT_SHARE = 0.25


def rows() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return the training rows and the held-out rows: always the same, no sum twice."""
    rng = random.Random("arithmetic_sglang")
    sums: dict[tuple[int, int], None] = {}
    while len(sums) < TRAIN_ROWS + HELDOUT_ROWS:
        largest = 9 if rng.random() < ONE_DIGIT_SHARE else LARGEST
        sums[rng.randint(1, largest), rng.randint(1, largest)] = None
    drawn = list(sums)
    rng.shuffle(drawn)
    return _rows("train", drawn[:TRAIN_ROWS]), _rows("heldout", drawn[TRAIN_ROWS:])


def _rows(split: str, drawn: list[tuple[int, int]]) -> list[dict[str, str]]:
    return [
        {"id": f"{split}-{number:04}", "question": f"What is {a} + {b}? Answer with one number.", "answer": str(a + b)}
        for number, (a, b) in enumerate(drawn, start=1)
    ]


def main() -> None:
    for split, split_rows in zip(("train", "heldout"), rows(), strict=True):
        text = "".join(json.dumps(row) + "\n" for row in split_rows)
        (HERE / f"{split}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
