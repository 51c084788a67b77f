"""Trained tokens per second and peak memory of forward_backward, against a plain loop and the measured matmul rate.

    python bench/trainer.py

A Llama of 4.7 M parameters in float32 on one core. The plain loop runs transformers on one sequence at a time, the head
on completion tokens only; it packs nothing and shares nothing.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from nexrl.records import Float32s, Int32s
from nexrl_trainer.algorithms.objective import Objective
from nexrl_trainer.batches.datums import Datum
from nexrl_trainer.policy.torch_backend import TorchBackend
from nexrl_trainer.recipe.tree import Train

WORKLOADS = {"prompt 256, group 4": (256, 4), "prompt 1,024, group 8": (1024, 8)}
COMPLETION, VOCABULARY, ROUNDS = 256, 4096, 3


def datums(prompt: int, group: int) -> list[Datum]:
    """Return a group: one prompt, completions of one length."""
    torch.manual_seed(0)
    shared = torch.randint(0, VOCABULARY, (prompt,)).tolist()
    mask = [0] * prompt + [1] * COMPLETION
    return [
        Datum(
            ids=Int32s(shared + torch.randint(0, VOCABULARY, (COMPLETION,)).tolist()),
            loss_mask=Int32s(mask),
            logprobs=Float32s([-8.3] * len(mask)),
            temperatures=Float32s([1.0] * len(mask)),
            weight_versions=Int32s([flag - 1 for flag in mask]),
            advantages=Float32s([1.0] * len(mask)),
            weights=Float32s([1 / (group * COMPLETION)] * len(mask)),
            session=str(index),
        )
        for index in range(group)
    ]


def plain(folder: Path, items: list[Datum]) -> float:
    """Return seconds of one pass of the plain loop."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for item in items:
            ids = torch.tensor([list(item.ids)])
            logits = model(ids, logits_to_keep=COMPLETION + 1).logits[0, :-1]
            current = torch.log_softmax(logits, -1).gather(1, ids[0, -COMPLETION:, None])[:, 0]
            (-torch.exp(current + 8.3).clamp(max=1.2).sum() / (len(items) * COMPLETION)).backward()
        best = min(best, time.perf_counter() - began)
    return best


def ours(folder: Path, items: list[Datum]) -> float:
    """Return seconds of one forward_backward."""
    backend = TorchBackend(folder, Train(device="cpu"))
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        backend.forward_backward(items, Objective())
        best = min(best, time.perf_counter() - began)
    return best


def matmul_rate() -> float:
    """Return floating point operations per second of a product of the model's size."""
    left, right = torch.randn(2048, 256), torch.randn(256, 1024)
    began, times = time.perf_counter(), 0
    while time.perf_counter() - began < 1:
        left @ right
        times += 1
    return 2 * 2048 * 256 * 1024 * times / (time.perf_counter() - began)


def floor(folder: Path, prompt: int, group: int) -> float:
    """Return seconds of the products alone: every row once through the layers, trained ones through the head."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    head = VOCABULARY * model.config.hidden_size
    body = sum(item.numel() for item in model.parameters()) - 2 * head
    pairs = prompt**2 / 2 + group * (COMPLETION * prompt + COMPLETION**2 / 2)
    attention = 4 * pairs * model.config.hidden_size * model.config.num_hidden_layers
    forward = 2 * body * (prompt + group * COMPLETION) + 2 * head * group * COMPLETION + attention
    return 3 * forward / matmul_rate()


def measure(kind: str, folder: Path, workload: str) -> None:
    """Print seconds and peak memory of one kind, alone in its process."""
    torch.set_num_threads(1)
    seconds = {"plain": plain, "ours": ours}[kind](folder, datums(*WORKLOADS[workload]))
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)


def main() -> None:
    """Print one line a workload."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=2048,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        for workload, (prompt, group) in WORKLOADS.items():
            found: dict[str, tuple[float, float]] = {}
            for kind in ("plain", "ours"):
                command = [sys.executable, __file__, kind, name, workload]
                printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
                found[kind] = float(printed[-2]), float(printed[-1])
            (plain_s, plain_gb), (ours_s, ours_gb) = found["plain"], found["ours"]
            share = floor(folder, prompt, group) / ours_s
            print(
                f"{workload}: {group * COMPLETION / ours_s:,.0f} trained tokens/s, {ours_gb:.2f} GB; plain loop "
                f"{group * COMPLETION / plain_s:,.0f}, {plain_gb:.2f} GB; {plain_s / ours_s:.2f} times as fast, "
                f"{share:.0%} of the matmul floor"
            )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
    else:
        main()
