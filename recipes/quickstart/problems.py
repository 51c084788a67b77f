"""What the quick start asks: small arithmetic problems, and the rows of train.jsonl and heldout.jsonl.

The one definition of the task; `dialogues.py` shows how somebody sloppy solves it. Run this file to write the rows.
"""

import json
import operator
import random
from pathlib import Path

from msgspec import Struct

HERE = Path(__file__).parent
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
TRAIN_ROWS = 256
HELDOUT_ROWS = 64
TWO_STEP_SHARE = 0.5

Step = tuple[int, str, int]
"""One use of the calculator: a, operator, b."""


class Problem(Struct, frozen=True, kw_only=True):
    """`a operator b`, or with a second step `(a operator b) then_operator c`."""

    first: Step
    then: tuple[str, int] | None = None

    @property
    def steps(self) -> list[Step]:
        """The uses of the calculator that lead to the answer, in order."""
        return [self.first, (calculate(self.first), *self.then)] if self.then else [self.first]

    @property
    def question(self) -> str:
        first = "{} {} {}".format(*self.first)
        return f"What is ({first}) {self.then[0]} {self.then[1]}?" if self.then else f"What is {first}?"

    @property
    def answer(self) -> int:
        return calculate(self.steps[-1])


def calculate(step: Step) -> int:
    a, symbol, b = step
    return OPERATORS[symbol](a, b)


def draw(rng: random.Random) -> Problem:
    """Return a problem whose results have two digits or more. Example: (37 + 58) * 4."""
    two_steps = rng.random() < TWO_STEP_SHARE
    symbol = rng.choice("+-" if two_steps else "+-*")
    a = rng.randint(20, 99)
    b = {"+": rng.randint(10, 99), "-": rng.randint(10, a - 10), "*": rng.randint(2, 9)}[symbol]
    return Problem(first=(a, symbol, b), then=("*", rng.randint(2, 9)) if two_steps else None)


def rows() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return the training rows and the held-out rows: always the same, no question twice."""
    rng = random.Random("quickstart")
    problems: dict[str, Problem] = {}
    while len(problems) < TRAIN_ROWS + HELDOUT_ROWS:
        problem = draw(rng)
        problems.setdefault(problem.question, problem)
    drawn = list(problems.values())
    return _rows("train", drawn[:TRAIN_ROWS]), _rows("heldout", drawn[TRAIN_ROWS:])


def _rows(split: str, problems: list[Problem]) -> list[dict[str, str]]:
    return [
        {"id": f"{split}-{number:04}", "question": problem.question, "answer": str(problem.answer)}
        for number, problem in enumerate(problems, start=1)
    ]


def main() -> None:
    for split, split_rows in zip(("train", "heldout"), rows(), strict=True):
        text = "".join(json.dumps(row) + "\n" for row in split_rows)
        (HERE / f"{split}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
