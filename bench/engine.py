"""How fast the embedded engine generates over HTTP, against transformers' own batched `generate`, in one run.

    OMP_NUM_THREADS=1 python bench/engine.py [--concurrency 1 --concurrency 16] [--rounds 3]

Both complete the same prompts of the same random Llama with as many tokens, sampled at temperature 1, on one CPU
thread, in float32. The engine also returns logprobs. Rounds alternate; medians are printed.
"""

import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import aiohttp
import torch
import typer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from nexrl_trainer.engines.embedded.model import load
from nexrl_trainer.engines.embedded.scheduler import Scheduler
from nexrl_trainer.engines.embedded.server import Engine, serving

VOCABULARY = 2048


def save_model(directory: Path) -> int:
    """Save a Llama of about 3.5 M parameters; returns their number."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(directory)
    return sum(parameter.numel() for parameter in model.parameters())


def prompts_of(count: int, length: int) -> list[list[int]]:
    """Random prompts that share nothing, so that no prefix is reused."""
    return [[random.randrange(3, VOCABULARY) for _ in range(length)] for _ in range(count)]


def with_transformers(model: LlamaForCausalLM, prompts: list[list[int]], tokens: int) -> float:
    """Return sampled tokens per second of one `generate` over the whole batch."""
    ids = torch.tensor(prompts)
    start = time.perf_counter()
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        top_k=0,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        pad_token_id=0,
    )
    return len(prompts) * tokens / (time.perf_counter() - start)


async def with_engine(http: aiohttp.ClientSession, prompts: list[list[int]], tokens: int) -> float:
    """Return sampled tokens per second of as many concurrent requests as prompts."""

    async def one(prompt: list[int]) -> int:
        params = {"max_new_tokens": tokens, "ignore_eos": True}
        body = {"input_ids": prompt, "sampling_params": params, "return_logprob": True}
        async with http.post("/generate", json=body) as response:
            return len((await response.json())["output_ids"])

    start = time.perf_counter()
    counts = await asyncio.gather(*(one(prompt) for prompt in prompts))
    return sum(counts) / (time.perf_counter() - start)


async def compare(directory: Path, concurrency: list[int], rounds: int, prompt: int, tokens: int) -> None:
    """Print one line per concurrency."""
    theirs = AutoModelForCausalLM.from_pretrained(directory).eval()
    loaded = load(directory, slots=max(concurrency), max_length=None, device="cpu", dtype="float32")
    engine = Engine(loaded, Scheduler(loaded, weight_version=0), directory)
    async with (
        serving(engine, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
    ):
        for count in concurrency:
            results: list[tuple[float, float]] = []
            for _ in range(rounds + 1):
                batch = prompts_of(count, prompt)
                results.append((await with_engine(http, batch, tokens), with_transformers(theirs, batch, tokens)))
            ours, peer = (statistics.median(column) for column in zip(*results[1:], strict=True))
            print(
                f"concurrency {count:3}: engine {ours:7.0f} tokens/s, transformers {peer:7.0f}, ratio {ours / peer:.2f}"
            )


def main(
    concurrency: Annotated[list[int] | None, typer.Option(help="Requests at once; may be repeated.")] = None,
    rounds: Annotated[int, typer.Option(help="Measured rounds; one more warms up.")] = 3,
    prompt: Annotated[int, typer.Option(help="Tokens per prompt.")] = 128,
    tokens: Annotated[int, typer.Option(help="Tokens per completion.")] = 128,
) -> None:
    """Compare the embedded engine with transformers' generate."""
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        parameters = save_model(Path(directory))
        print(f"Llama, {parameters / 1e6:.1f} M parameters, prompts of {prompt}, completions of {tokens}, one thread")
        asyncio.run(compare(Path(directory), concurrency or [1, 16], rounds, prompt, tokens))


if __name__ == "__main__":
    typer.run(main)
