"""What NexRL adds to SGLang on a GPU, how fast weights are published, and how well a training step uses the GPU.

    python bench/gpu.py --model MODEL [--python SGLANG/bin/python] [--peak-tflops 989]

For a machine with a GPU; elsewhere it says so and ends. MODEL is in Hugging Face layout, with tokenizer; random weights
serve. SGLang and the proxy answer the same prompts in turns, SGLang by `/generate` with token ids and logprobs, the
proxy by `/v1/completions` with logprobs, recorded and delivered to a real ingest.
"""

import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Annotated

import aiohttp
import torch
import typer
from transformers import AutoTokenizer

from nexrl_trainer.engines import generations
from nexrl_trainer.engines.client import EngineClient
from nexrl_trainer.engines.publication import SHARED_MEMORY
from nexrl_trainer.engines.tensors import buckets
from nexrl_trainer.recipe.train import Train
from on_gpu.load import Target, load
from on_gpu.services import Started, started
from on_gpu.training import steps

WORDS = ("the", "sum", "of", "two", "numbers", "is", "what", "you", "get", "when", "one", "added", "to", "other")
H100_TFLOPS = 989.0
"""Dense bfloat16, from NVIDIA's data sheet."""


def prompts_of(model: Path, count: int, words: int) -> list[tuple[str, list[int]]]:
    """Return prompts that share nothing but words, as text and as the ids that SGLang alone is given."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=words)) for _ in range(count)]
    return [(text, tokenizer.encode(text)) for text in texts]


async def serving(services: Started, model: Path, *, concurrency: list[int], rounds: int, tokens: int) -> None:
    """Print throughput and the wait for the first token, of SGLang and through the proxy, in turns."""
    keyed = {"Authorization": f"Bearer {services.key}"}
    direct = Target(name="SGLang", url=services.engine, route="/generate")
    through = Target(name="through the proxy", url=services.proxy, route="/v1/completions", headers=keyed)
    for c in concurrency:
        for number in range(rounds + 1):
            for target in (direct, through):
                found = await load(target, prompts_of(model, 4 * c, 96), tokens=tokens, c=c)
                if number:  # the first round warms up
                    print(f"c={c} {target.name}: {found.tokens_s:,.0f} tokens/s, first token {found.first_ms:.1f} ms")


async def publication(services: Started, model: Path, *, size: float, rounds: int) -> None:
    """Print the seconds that an update of `size` GiB takes, by every way there is."""
    async with aiohttp.ClientSession() as http:
        client = EngineClient(services.engine, http)
        generation = await client.generation("sglang")
        for version in range(1, rounds + 1):
            for way in ("files", "tensors"):
                update = (
                    generations.from_folder(generation, model, version)
                    if way == "files"
                    else generations.from_tensors(generation, buckets(model), version)
                )
                began = time.perf_counter()
                await client.update(update)
                print(f"publication by {way}: {time.perf_counter() - began:.3f} s for {size:.2f} GiB")


def main(
    *,
    model: Annotated[Path, typer.Option(help="Directory in Hugging Face layout.")],
    python: Annotated[str, typer.Option(help="Python of the environment that has SGLang.")] = "python",
    flags: Annotated[str, typer.Option(help="SGLang's own, as one text.")] = "--dtype bfloat16 "
    "--mem-fraction-static 0.4",
    concurrency: Annotated[list[int] | None, typer.Option(help="Streams at once; may be repeated.")] = None,
    rounds: Annotated[int, typer.Option(help="Measured rounds of everything.")] = 3,
    tokens: Annotated[int, typer.Option(help="Tokens per completion.")] = 256,
    peak_tflops: Annotated[float, typer.Option(help="Of the GPU, dense bfloat16.")] = H100_TFLOPS,
) -> None:
    """Measure everything, one line a figure."""
    if not torch.cuda.is_available():
        raise SystemExit("bench/gpu.py: torch sees no GPU here; run it on a machine that has one")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {model}")
    trained = steps(model, Train(device="cuda", dtype="bfloat16"), rows=8, row=1024, count=5 * rounds)
    share = trained.flops_s / (peak_tflops * 1e12)
    print(f"training step, torch, bfloat16: {trained.tokens_s:,.0f} tokens/s, {share:.1%} of {peak_tflops:g} TFLOP/s")
    torch.cuda.empty_cache()
    size = sum(file.stat().st_size for file in model.glob("*.safetensors")) / 2**30
    place = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as folder, started(model, python, flags.split(), Path(folder)) as found:
        asyncio.run(serving(found, model, concurrency=concurrency or [64, 128, 256], rounds=rounds, tokens=tokens))
        asyncio.run(publication(found, model, size=size, rounds=rounds))


if __name__ == "__main__":
    typer.run(main)
