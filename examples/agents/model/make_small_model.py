"""Make the examples' model: a tiny Llama that half knows the work of the agents beside this folder.

    python make_small_model.py --out DIR [--seed N] [--steps N]

It is made as the quick start's is, by the quick start's own code, from more kinds of dialogues (`lessons.py`). Its chat
template names tools and their arguments and nothing else of them: every framework describes the same tool in words of
its own, which a model of this size could not read.
"""

# ruff: noqa: E402 - the quick start's code is found first
import functools
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "recipes/quickstart"))

import typer
from lessons import Lesson, as_a_clerk, as_a_lead, at_a_calculator, in_a_shell, in_python
from make_model import BATCH, TOKENIZER_DIALOGUES, make_once, unseen_problems, write
from problems import Problem

if TYPE_CHECKING:
    from tokens import Example
    from transformers import PreTrainedTokenizerFast

STEPS = 720
KINDS = (at_a_calculator, at_a_calculator, in_python, in_a_shell, as_a_lead, as_a_clerk)
"""In turn, so that half of the lessons are at a calculator, for oneself or for somebody else."""


def lessons(problems: Iterable[Problem], rng: random.Random) -> list[Lesson]:
    return [KINDS[number % len(KINDS)](problem, rng) for number, problem in enumerate(problems)]


def examples(tokenizer: "PreTrainedTokenizerFast", seed: int, count: int) -> "list[Example]":
    from tokens import encode

    taught = lessons(unseen_problems(seed, count), random.Random(f"demonstrator {seed}"))  # noqa: S311 - reproducible
    return [encode(tokenizer, messages, tools) for messages, tools in taught]


def make(directory: Path, *, seed: int, steps: int) -> None:
    """Write the model to a directory that is there."""
    from tokens import make_tokenizer

    rng = random.Random("tokenizer")  # noqa: S311 - reproducible
    seen = lessons(unseen_problems(seed, TOKENIZER_DIALOGUES), rng)
    tokenizer = make_tokenizer(seen, HERE / "chat_template.jinja")
    write(directory, tokenizer, examples(tokenizer, seed, steps * BATCH), seed=seed)


def main(
    out: Annotated[Path, typer.Option(help="The directory to write; its parents are made.")],
    seed: Annotated[int, typer.Option(help="Another seed makes another model of the same skill.")] = 0,
    steps: Annotated[
        int, typer.Option(min=1, help="Optimizer steps of supervision; fewer make a worse model.")
    ] = STEPS,
) -> None:
    """Make the examples' model in Hugging Face layout; takes three minutes of one core."""
    make_once(out, {"seed": seed, "steps": steps}, functools.partial(make, seed=seed, steps=steps))


if __name__ == "__main__":
    typer.run(main)
