"""Arithmetic questions and a calculator: an environment as users of verifiers write them."""

import json
import re
from pathlib import Path
from typing import Literal

import verifiers as vf
from datasets import Dataset

QUESTIONS = Path(__file__).parents[3] / "recipes/quickstart"
SYSTEM = "Answer with a number. Use the calculator for every operation."


def calculator(a: int, operator: Literal["+", "-", "*"], b: int) -> int:
    """Compute a operator b."""
    return {"+": a + b, "-": a - b, "*": a * b}[operator]


def correct(completion, answer) -> float:
    return float(re.findall(r"-?\d+", str(completion[-1].content))[-1:] == [answer])


def questions(file):
    return Dataset.from_list([json.loads(line) for line in (QUESTIONS / file).read_text().splitlines()])


def load_environment():
    return vf.ToolEnv(
        dataset=questions("train.jsonl"),
        eval_dataset=questions("heldout.jsonl"),
        system_prompt=SYSTEM,
        tools=[calculator],
        rubric=vf.Rubric(funcs=[correct]),
        max_turns=4,
    )
