"""The `engine` part of a recipe: what samples tokens, started for the run or running already."""

from typing import Literal
from urllib.parse import urlsplit

from msgspec import field

from nexrl_trainer.recipe.part import Part, Positive

Flag = bool | int | float | str | list[str]
SENT = ("tensors", "broadcast")
"""Ways of publication in which weights are no files to the engine."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
OURS = {
    "model-path": "model.path",
    "model": "model.path",
    "tokenizer-path": "model.path",
    "host": "ray.address",
    "port": "nothing: a free one is taken",
    "weight-version": "nothing: it counts publications",
    "tokenizer": "model.path",
    "logprobs-mode": "nothing: logprobs are those of what is sampled from",
    "api-key": "nothing: what is started for the run needs none",
    "admin-api-key": "nothing: what is started for the run needs none",
    "nnodes": "engine.url, of a server that you start on several machines",
    "node-rank": "engine.url, of a server that you start on several machines",
    "dist-init-addr": "engine.url, of a server that you start on several machines",
}
"""Flags that follow from something else, and from what."""


class Engine(Part, frozen=True, kw_only=True):
    kind: Literal["embedded", "sglang", "vllm"] = "embedded"
    """What samples; it is started for the run, unless it is running already at `url`."""
    url: str | None = None
    """Base URL of an engine that is running already; several with commas between. `NEXRL_ENGINE_KEY` holds the key of
    servers that ask for one."""
    replicas: Positive = 1
    """Engines that are started; each session lives on one of them."""
    python: str | None = None
    """Python of the environment that SGLang or vLLM is installed in; none is this one."""
    flags: dict[str, Flag] = field(default_factory=dict[str, Flag])
    """The server's own flags, by their names without the dashes, SGLang's for instance: `{mem-fraction-static: 0.5,
    tp-size: 2, enable-metrics: true}`. The run's dtype, device and seed are in force where nothing is said."""
    env: dict[str, str] = field(default_factory=dict[str, str])
    """Environment variables of servers that are started."""
    updates: Literal["in_flight", "drained"] = "in_flight"
    """New weights come under running requests, every token of which then names its weights, or once nothing runs.
    SGLang before 0.5.23 names one version a request, and vLLM none: they take `drained` alone."""
    publication: Literal["disk", "shared_memory", "tensors", "broadcast"] = "disk"
    """How new weights reach the engine. It reads them, in the run directory, which several machines may share, or in
    memory (/dev/shm), where trainer and engine are on this one: `ray.address` none, an SGLang server on localhost. Or
    they are sent to it, and no files are shared (SGLang alone): in requests to each (`tensors`), or to all engines at
    once, by a process group over NCCL between GPUs, over Gloo between CPUs (`broadcast`)."""
    verify: bool = False
    """After each publication the engine's checksums of its tensors are compared with the published ones, and a tensor
    that differs ends the run. SGLang can say where one server is one rank, vLLM cannot."""
    colocated: bool = False
    """SGLang servers give their GPU memory to the trainer while a step trains, and take it back with the new weights
    (`enable-memory-saver`). For synchronous rollouts, where nothing is sampled meanwhile."""
    max_running: Positive = 32
    """Requests the embedded engine samples for at the same time; more wait."""
    max_length: Positive | None = None
    """Longest prompt plus completion of the embedded engine, in tokens; none is all the model has positions for."""
    threads: Positive = 1
    """CPU threads of each engine that is started."""

    def __post_init__(self) -> None:
        for name in ONLY_OF.keys() & set(self.changed()):
            allowed, remedy = ONLY_OF[name]
            if self.way not in allowed:
                where = f"a server at {self.url}" if self.url else f"kind '{self.kind}'"
                raise ValueError(f"engine.{name}: {where} has no such setting; {remedy}")
        for name, value in self.flags.items():
            if name in OURS:
                raise ValueError(f"engine.flags.{name}: follows from {OURS[name]}; remove it")
            if value is False:
                raise ValueError(f"engine.flags.{name}=false: a flag is there or it is not; remove it")
        if self.publication in SENT and self.kind != "sglang":
            raise ValueError(
                f"engine.publication={self.publication}: kind '{self.kind}' reads files; use disk or shared_memory"
            )
        if self.publication == "broadcast" and self.colocated:
            raise ValueError(
                "engine.publication=broadcast: NCCL connects no two processes on one GPU, where engine.colocated has "
                "trainer and engine; use disk, shared_memory or tensors"
            )
        if self.kind == "vllm" and self.verify:
            raise ValueError("engine.verify: vLLM lays out weights as its kernels want them; set engine.verify=false")
        if self.kind == "vllm" and self.updates != "drained":
            raise ValueError("engine.updates=in_flight: vLLM does not say which weights sampled a token; set drained")
        self.check_addresses("engine.url", self.urls)

    def check_addresses(self, setting: str, urls: list[str]) -> None:
        """Raise ValueError where engines that run already could not be used at what a setting says."""
        for url in urls:
            if urlsplit(url).scheme not in {"http", "https"}:
                raise ValueError(f"{setting}={url}: give addresses like http://host:30000")
            if self.publication == "shared_memory" and urlsplit(url).hostname not in LOOPBACK:
                raise ValueError(f"engine.publication=shared_memory: {setting}={url} is not on this machine; use disk")
        if len(set(urls)) < len(urls):
            raise ValueError(f"{setting}={','.join(urls)} names an engine twice; give each once")

    @property
    def urls(self) -> list[str]:
        """Addresses of the engines that are running already."""
        return addresses(self.url)

    @property
    def started(self) -> int:
        """How many engines are started for the run."""
        return 0 if self.url else self.replicas

    @property
    def way(self) -> str:
        """How the run comes by its engines: `embedded`, `sglang` or `vllm`, started for it, or `attached`."""
        return "attached" if self.url else self.kind


def addresses(given: str | None) -> list[str]:
    """Return the URLs of a list that is separated by commas."""
    return [url.strip().rstrip("/") for url in (given or "").split(",") if url.strip()]


ONLY_OF = {
    "replicas": (("embedded", "sglang", "vllm"), "name several addresses in engine.url"),
    "threads": (("embedded", "sglang", "vllm"), "it was started with its own"),
    "python": (("sglang", "vllm"), "remove it"),
    "flags": (("sglang", "vllm"), "remove it, or give them to the server that you start"),
    "env": (("sglang", "vllm"), "remove it, or give them to the server that you start"),
    "colocated": (("sglang",), "remove it"),
    "max_running": (("embedded",), "SGLang has the flag max-running-requests, vLLM max-num-seqs"),
    "max_length": (("embedded",), "SGLang has the flag context-length, vLLM max-model-len"),
}
"""Settings that not every way to have an engine knows: those that do, and what to do elsewhere."""
