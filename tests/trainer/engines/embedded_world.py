"""Tiny random Llamas on disk, an embedded engine around one of them on a free port, and the truth to compare with."""

import asyncio
import contextlib
import functools
from collections.abc import Callable
from pathlib import Path

import aiohttp
import msgspec
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from nexrl_trainer.engines.embedded.model import detokeniser, load
from nexrl_trainer.engines.embedded.scheduler import STEP_TOKENS, Scheduler
from nexrl_trainer.engines.embedded.server import Engine, serving

logging.disable_progress_bar()
torch.set_num_threads(1)
VOCABULARY = 300
EOS = 2


def save_llama(directory: Path, *, seed: int, **changes) -> Path:
    """Save a random Llama with 2 layers and shared key heads; logits far enough apart to be sampled with interest."""
    config = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "bos_token_id": 1,
        "eos_token_id": EOS,
        "initializer_range": 0.15,
    }
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**config | changes)).save_pretrained(directory)
    return directory


@functools.cache
def reference(directory: Path):
    return AutoModelForCausalLM.from_pretrained(directory, attn_implementation="sdpa").double().eval()


@torch.no_grad()
def true_logprobs(directory: Path, prompt: list[int], output: list[int], temperature: float = 1.0) -> list[float]:
    """Return the output's logprobs from one whole forward pass of transformers' own, in double precision."""
    logits = reference(directory)(torch.tensor([prompt + output])).logits[0, len(prompt) - 1 : -1]
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    return logprobs.gather(1, torch.tensor(output)[:, None])[:, 0].tolist()


def logprobs_of(reply) -> list[float]:
    """Return a reply's logprobs, having checked that they name the output's tokens."""
    triples = reply["meta_info"]["output_token_logprobs"]
    assert [token for _, token, _ in triples] == reply["output_ids"]
    return [logprob for logprob, _, _ in triples]


class Client:
    """The engine as a client sees it, and behind it the engine itself."""

    def __init__(self, engine: Engine, http: aiohttp.ClientSession) -> None:
        self.engine = engine
        self.http = http

    async def generate(self, ids, *, status=200, rid=None, logprobs=True, **params):
        body = {"input_ids": ids, "sampling_params": params, "return_logprob": logprobs}
        return await self.post("/generate", body | ({"rid": rid} if rid else {}), status=status)

    async def stream(self, ids, *, rid=None, **params):
        body = {"input_ids": ids, "sampling_params": params, "return_logprob": True, "stream": True}
        async with self.http.post("/generate", json=body | ({"rid": rid} if rid else {})) as response:
            assert response.headers["Content-Type"] == "text/event-stream"
            async for line in response.content:
                if line.startswith(b"data: {"):
                    yield msgspec.json.decode(line[6:])
                elif line.strip():
                    assert line == b"data: [DONE]\n"

    async def post(self, path, body, *, status=200):
        async with self.http.post(path, json=body) as response:
            content = await response.read()
            assert response.status == status, content
            return msgspec.json.decode(content) if content else None

    async def update(self, directory, version, *, status=200):
        body = {"model_path": str(directory), "weight_version": str(version)}
        return await self.post("/update_weights_from_disk", body, status=status)

    async def info(self):
        async with self.http.get("/model_info") as response:
            return await response.json()


@contextlib.asynccontextmanager
async def serve(directory: Path, *, slots=8, max_length=None, step_tokens=STEP_TOKENS, seed=0, dtype="float32"):
    model = load(directory, slots=slots, max_length=max_length, device="cpu", dtype=dtype)
    scheduler = Scheduler(
        model, weight_version=0, detokenise=detokeniser(directory), seed=seed, step_tokens=step_tokens
    )
    engine = Engine(model, scheduler, directory)
    async with (
        serving(engine, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=aiohttp.ClientTimeout(total=20)) as http,
    ):
        yield Client(engine, http)


async def until(holds: Callable[[], bool]) -> None:
    """Return once something holds that nobody announces; raises TimeoutError after 5 seconds."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)
