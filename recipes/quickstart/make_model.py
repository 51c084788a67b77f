"""Make the quick start's model: a tiny Llama supervised on the sloppy demonstrator's dialogues.

    python make_model.py --out DIR [--seed N] [--steps N]

Writes a Hugging Face directory, whole or not at all, and does nothing where it already stands. What the demonstrator
does is `dialogues.py`'s, how it becomes token ids `tokens.py`'s.
"""

import functools
import itertools
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from dialogues import TOOLS, demonstrate
from problems import Problem, draw, rows

if TYPE_CHECKING:
    import torch
    from tokens import Example
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

STEPS = 320
BATCH = 24
LEARNING_RATE = 2e-3
WARMUP = 20
TOKENIZER_DIALOGUES = 1000
SHOW_EVERY = 20
LABEL = "quickstart.json"
"""Says with which seed and steps a directory was made."""


def unseen_problems(seed: int, count: int) -> list[Problem]:
    """Return problems to demonstrate, none of which a held-out row asks."""
    heldout = {row["question"] for row in rows()[1]}
    rng = random.Random(f"problems {seed}")
    drawn = (draw(rng) for _ in itertools.count())
    return list(itertools.islice((problem for problem in drawn if problem.question not in heldout), count))


def examples(tokenizer: "PreTrainedTokenizerFast", seed: int, count: int) -> "list[Example]":
    from tokens import encode

    rng = random.Random(f"demonstrator {seed}")
    return [encode(tokenizer, demonstrate(problem, rng)) for problem in unseen_problems(seed, count)]


def new_model(tokenizer: "PreTrainedTokenizerFast") -> "LlamaForCausalLM":
    from tokens import END, PAD
    from transformers import LlamaConfig, LlamaForCausalLM

    eos, pad = (tokenizer.backend_tokenizer.token_to_id(token) for token in (END, PAD))
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=12,
            num_key_value_heads=6,
            max_position_embeddings=512,
            # Copying numbers is what must be learned within a minute: positions told apart sharply and weights that
            # start at full size make that several times quicker than the defaults, which suit large models.
            rope_parameters={"rope_type": "default", "rope_theta": 100.0},
            initializer_range=0.08,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=eos,
            pad_token_id=pad,
        )
    )


def supervise(model: "LlamaForCausalLM", data: "list[Example]") -> None:
    """Train on the examples once, BATCH a step."""
    import torch

    steps = len(data) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, 1.0) * (1 - step / steps)
    )
    for step in range(steps):
        loss = accumulate(model, data[step * BATCH : (step + 1) * BATCH])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % SHOW_EVERY == 0 or step + 1 == steps:
            show(f"supervising: step {step + 1} of {steps}, loss {loss:.3f}", last=step + 1 == steps)


def accumulate(model: "LlamaForCausalLM", batch: "list[Example]") -> float:
    """Add the gradient of the batch's mean loss per learned token, in parts of similar length; return the loss."""
    total = sum(sum(example.learned) for example in batch)
    by_length = sorted(batch, key=lambda example: len(example.ids))
    part = len(batch) // 2
    loss = 0.0
    for start in range(0, len(batch), part):
        share = summed_loss(model, by_length[start : start + part]) / total
        share.backward()
        loss += share.item()
    return loss


def summed_loss(model: "LlamaForCausalLM", part: "list[Example]") -> "torch.Tensor":
    import torch

    width = max(len(example.ids) for example in part)
    ids = torch.zeros(len(part), width, dtype=torch.long)
    learned = torch.zeros(len(part), width, dtype=torch.bool)
    for row, example in enumerate(part):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        learned[row, : len(example.ids)] = torch.tensor(example.learned)
    # Padding stands at the end, where causal attention cannot see it: no attention mask is needed.
    hidden: Any = model.model(input_ids=ids, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][learned[:, 1:]])
    return torch.nn.functional.cross_entropy(logits, ids[:, 1:][learned[:, 1:]], reduction="sum")


def show(line: str, *, last: bool = True) -> None:
    """Show progress on standard error: in one place on a terminal, line by line elsewhere."""
    sys.stderr.write(f"\r{line}\x1b[K" + "\n" * last if sys.stderr.isatty() else line + "\n")
    sys.stderr.flush()


def make(directory: Path, *, seed: int, steps: int) -> None:
    """Write the quick start's model to a directory that is there."""
    from tokens import make_tokenizer

    rng = random.Random("tokenizer")
    tokenizer = make_tokenizer([(demonstrate(draw(rng), rng), TOOLS) for _ in range(TOKENIZER_DIALOGUES)])
    write(directory, tokenizer, examples(tokenizer, seed, steps * BATCH), seed=seed)


def write(directory: Path, tokenizer: "PreTrainedTokenizerFast", data: "list[Example]", *, seed: int) -> None:
    """Write tokenizer, a new model supervised on the examples, and configurations to a directory that is there."""
    import torch
    from transformers import GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(seed)
    model = new_model(tokenizer)
    supervise(model, data)
    model.generation_config = GenerationConfig(
        eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id, do_sample=True
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def make_once(out: Path, label: dict[str, int], fill: Callable[[Path], None]) -> None:
    """Fill a directory beside `out` and rename it, or do nothing where what the label says already stands."""
    if stands(out, label):
        show(f"{out} is already made")
        return
    started = time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        fill(unfinished)
        (unfinished / LABEL).write_text(json.dumps(label) + "\n", encoding="utf-8")
        unfinished.chmod(0o755)
        settle(unfinished, out, label)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    show(f"{out} made in {time.monotonic() - started:.0f} s")


def stands(out: Path, label: dict[str, int]) -> bool:
    """Say whether `out` already holds this model; raises where it holds something else."""
    if not out.exists():
        return False
    found = json.loads((out / LABEL).read_text(encoding="utf-8")) if (out / LABEL).is_file() else "something else"
    if found != label:
        raise typer.BadParameter(f"{out} holds {found}, not {label}: delete it or choose another directory")
    return True


def settle(unfinished: Path, out: Path, label: dict[str, int]) -> None:
    """Rename to where it belongs, or leave it where another process made the same model in the meantime."""
    try:
        unfinished.replace(out)
    except OSError:
        if not stands(out, label):
            raise


def main(
    out: Annotated[Path, typer.Option(help="The directory to write; its parents are made.")],
    seed: Annotated[int, typer.Option(help="Another seed makes another model of the same skill.")] = 0,
    steps: Annotated[
        int, typer.Option(min=1, help="Optimizer steps of supervision; fewer make a worse model.")
    ] = STEPS,
) -> None:
    """Make the quick start's model in Hugging Face layout; takes a minute and a half of one core."""
    make_once(out, {"seed": seed, "steps": steps}, functools.partial(make, seed=seed, steps=steps))


if __name__ == "__main__":
    typer.run(main)
