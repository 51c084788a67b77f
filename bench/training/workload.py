"""What every trainer is given: the same model, and the same rollouts as plain numbers.

No NexRL in here: a peer's process reads it too.
"""

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

VOCABULARY, HIDDEN, INTERMEDIATE, LAYERS, HEADS, KEY_HEADS, POSITIONS = 4096, 256, 688, 4, 8, 4, 2048
LEARNING_RATE, GRAD_CLIP, CLIP_LOW, CLIP_HIGH = 1e-6, 1.0, 0.2, 0.28
SAMPLED = -8.3
"""Logprob of every sampled token: about what a fresh model gives it."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A group of rollouts of one prompt; completions of mixed lengths, in turns with what the environment says."""

    prompt: int
    group: int
    shortest: int = 64
    longest: int = 256
    turns: int = 3
    environment: int = 16
    """Tokens between two turns, which nobody sampled."""

    @property
    def name(self) -> str:
        return f"prompt {self.prompt:,}, group {self.group}"


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One rollout as tokens; `mask` says which of the completion's were sampled."""

    prompt: list[int]
    completion: list[int]
    mask: list[int]
    advantage: float


def rollouts(workload: Workload) -> list[Rollout]:
    """Return the workload's group; the same one every time."""
    draw = random.Random(workload.prompt)
    tokens = lambda count: [draw.randrange(VOCABULARY) for _ in range(count)]  # noqa: E731
    prompt = tokens(workload.prompt)
    group: list[Rollout] = []
    for index in range(workload.group):
        length = draw.randint(workload.shortest, workload.longest)
        turn = (length - (workload.turns - 1) * workload.environment) // workload.turns
        mask = ([1] * turn + [0] * workload.environment) * (workload.turns - 1)
        mask += [1] * (length - len(mask))
        advantage = 1.0 if index % 2 else -1.0
        group.append(Rollout(prompt=prompt, completion=tokens(length), mask=mask, advantage=advantage))
    return group


def trained(group: list[Rollout]) -> int:
    """Return the number of tokens that are trained."""
    return sum(sum(item.mask) for item in group)


def write_group(group: list[Rollout], folder: Path) -> None:
    """Write the rollouts where `read_group` finds them."""
    (folder / "group.json").write_text(json.dumps([asdict(item) for item in group]))


def read_group(folder: Path) -> list[Rollout]:
    """Return what `write_group` wrote."""
    return [Rollout(**item) for item in json.loads((folder / "group.json").read_text())]


def write_model(folder: Path) -> None:
    """Write a Llama of 4.7 M parameters, weights drawn with a fixed seed, to `model/`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=POSITIONS,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
