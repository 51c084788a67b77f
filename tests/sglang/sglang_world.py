"""A real SGLang server without a GPU, started as the trainer starts it, and what is asked of it."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import msgspec
from sglang_models import true_logprobs

from nexrl.records import Int32s
from nexrl_proxy.engines import Completion, Work
from nexrl_proxy.engines.http import Upstream
from nexrl_proxy.engines.sglang import SglangEngine
from nexrl_trainer.engines import generations
from nexrl_trainer.engines.client import EngineClient
from nexrl_trainer.services.process import ServiceProcess

ENVIRONMENT = Path(os.environ.get("TEST_SGLANG_ENVIRONMENT", Path.home() / ".cache/nexrl/sglang/env"))
PYTHON = ENVIRONMENT / "bin/python"
VARIABLES = {
    "SGLANG_USE_CPU_ENGINE": "1",
    "PYTHONPATH": str(Path(__file__).with_name("shim")),
    # On shared cores, two threads were many times slower than one.
    "OMP_NUM_THREADS": "1",
}
FLAGS = {
    "attention-backend": "torch_native",
    "sampling-backend": "pytorch",
    "grammar-backend": "none",
    "mem-fraction-static": 0.1,
    "max-total-tokens": 32768,
}
START_S = 900.0
EXACT = 1e-4


@contextlib.contextmanager
def serving(model: Path, log: Path) -> Iterator[str]:
    """Yield the address of a server that begins with these weights as version 0."""
    command = [
        sys.executable,
        "-m",
        "nexrl_trainer.engines.servers",
        "--python",
        str(PYTHON),
        "--exit-with-parent",
        "--",
    ]
    command += ["--model-path", str(model), "--weight-version", "0", "--device", "cpu", "--dtype", "float32"]
    command += [word for name, value in FLAGS.items() for word in (f"--{name}", str(value))]
    process = ServiceProcess("sglang", command, str(log), VARIABLES)
    try:
        yield process.url(START_S)
    finally:
        process.stop()


class Server:
    """The server as its clients see it; remembers which version is which weights."""

    def __init__(self, url: str, weights: list[Path], http: aiohttp.ClientSession) -> None:
        self.url = url
        self.http = http
        self.weights = weights
        self.client = EngineClient(url, http)
        self.engine = SglangEngine(Upstream(url))
        """The proxy's own client."""
        self.folders: dict[int, Path] = {}

    @property
    def version(self) -> int:
        return max(self.folders)

    async def post(self, route: str, body: dict, *, status: int = 200):
        async with self.http.post(self.url + route, json=body) as reply:
            content = await reply.read()
            assert reply.status == status, content
            return msgspec.json.decode(content) if content else None

    async def generate(self, ids: list[int], tokens: int, **params):
        params = {"max_new_tokens": tokens, "temperature": 1.0, "ignore_eos": True, **params}
        body = {"input_ids": ids, "sampling_params": params, "return_logprob": True}
        return await self.post("/generate", body)

    def other_weights(self) -> Path:
        """Weights that are not the current ones."""
        at = self.weights.index(self.folders[self.version])
        return self.weights[(at + 1) % len(self.weights)]

    async def publish(self) -> int:
        """Update to other weights as the trainer does; return their version."""
        version, folder = self.version + 1, self.other_weights()
        await self.client.update(generations.from_folder(await self.client.generation("sglang"), folder, version))
        self.folders[version] = folder
        return version

    def assert_sampled(self, reply, prompt: list[int], temperature: float = 1.0) -> list[int]:
        """Every token's logprob is that of the version it names, and versions only rise; return them."""
        meta = reply["meta_info"]
        spans = [(int(span["version"]), span["start"], span["end"]) for span in meta["weight_versions"]]
        assert [start for _, start, _ in spans] == [0, *(end for _, _, end in spans[:-1])]
        assert spans[-1][2] == len(reply["output_ids"]) == len(meta["output_token_logprobs"])
        versions = [version for version, start, end in spans for _ in range(start, end)]
        self.assert_logprobs(reply["output_ids"], meta["output_token_logprobs"], versions, prompt, temperature)
        return [version for version, _, _ in spans]

    def assert_logprobs(self, ids, pairs, versions, prompt, temperature=1.0) -> None:
        assert list(ids) == [pair[1] for pair in pairs]
        assert list(versions) == sorted(versions)
        true = {
            version: true_logprobs(self.folders[version], prompt, list(ids), temperature) for version in set(versions)
        }
        gaps = [
            abs(pair[0] - true[version][at]) for at, (pair, version) in enumerate(zip(pairs, versions, strict=True))
        ]
        assert max(gaps, default=0.0) < EXACT, (gaps.index(max(gaps)), max(gaps), versions)

    def assert_completion(self, completion: Completion, prompt: list[int], temperature: float = 1.0) -> None:
        """The same, of what the proxy's client heard."""
        assert completion.exact
        pairs = list(zip(completion.logprobs, completion.ids, strict=True))
        self.assert_logprobs(completion.ids, pairs, list(completion.weight_versions), prompt, temperature)


class Heard:
    """What the proxy's client heard: how long the completion was each time, and `then` as it grew."""

    def __init__(self, then: Callable[[Completion], None] = lambda _: None) -> None:
        self.then = then
        self.completion = Completion()
        self.deltas: list[list[int]] = []

    def grown(self, completion: Completion) -> None:
        seen = sum(map(len, self.deltas))
        self.completion = completion
        self.deltas.append(list(completion.ids)[seen:])
        self.then(completion)

    def keeps_up(self) -> bool:
        return True

    async def caught_up(self) -> None:
        """Nobody waits."""


def work(rid: str, ids: list[int], tokens: int, *, stream: bool, temperature: float = 1.0) -> Work:
    params = {"max_new_tokens": tokens, "temperature": temperature, "ignore_eos": True}
    return Work(rid=rid, ids=Int32s(ids), params=params, stream=stream)


async def some_tokens(heard: Heard, count: int) -> None:
    """Return once the completion has so many."""
    while len(heard.completion.ids) < count:  # noqa: ASYNC110 - told from elsewhere, token by token
        await asyncio.sleep(0.005)
