"""What each service of a run is started with: from the recipe to a command line. Pure."""

import os
import sys
from pathlib import Path

import msgspec

from nexrl_trainer.directory import RunDirectory
from nexrl_trainer.engines.fleet import Weights
from nexrl_trainer.engines.servers.flags import arguments
from nexrl_trainer.engines.servers.kinds import SERVERS
from nexrl_trainer.recipe import Recipe
from nexrl_trainer.recipe.engine import LOOPBACK, Flag
from nexrl_trainer.recipe.proxy import SamplingPolicy

HOST, PORT = "{host}", "{port}"


def nexrl(arguments: list[str]) -> list[str]:
    """Return the command line of `nexrl ...` in this environment; it ends with us."""
    return [sys.executable, "-m", "nexrl.cli", *arguments, "--exit-with-parent"]


def ingest(recipe: Recipe, directory: RunDirectory) -> list[str]:
    """Return what `nexrl` starts the run's ingest with."""
    return ["ingest", "--host", recipe.ingest.host, "--port", str(recipe.ingest.port), "--data", str(directory.ingest)]


def proxy(recipe: Recipe, model: Path, directory: RunDirectory, engine: str, ingest: str) -> list[str]:
    """Return what `nexrl` starts the run's proxy with."""
    where = ["--host", recipe.proxy.host, "--port", str(recipe.proxy.port), "--data", str(directory.proxy)]
    where += ["--engine", engine, "--ingest", ingest]
    parsers = ["--tool-parser", recipe.proxy.tool_parser, "--reasoning-parser", recipe.proxy.reasoning_parser]
    policy = ["--history", recipe.proxy.history, "--sampling", sampling_policy(recipe.proxy.sampling)]
    return [
        "proxy",
        *where,
        "--model",
        str(model),
        *parsers,
        *policy,
        "--served-model",
        recipe.name,
        "--require-session",
        *([] if recipe.proxy.host in LOOPBACK else ["--require-key"]),
        *("--drain-s", "0"),
        *(["--policies", str(directory.policies_file)] if recipe.policies else []),
        *(["--models", str(directory.models_file)] if recipe.proxy.models else []),
        *(["--engine-kind", "vllm", "--processed-logprobs"] if recipe.engine.kind == "vllm" else []),
    ]


def sampling_policy(policy: SamplingPolicy) -> str:
    """Return the policy as the proxy reads it: only what is set."""
    set_ = {
        mode: {
            kind: {name: value for name, value in msgspec.structs.asdict(part).items() if value is not None}
            for kind, part in (("force", rule.force), ("default", rule.default))
        }
        for mode, rule in (("train", policy.train), ("eval", policy.eval))
    }
    return msgspec.json.encode(set_).decode()


def engine(recipe: Recipe, weights: Weights, index: int) -> list[str]:
    """Return the command line of the run's engine number `index`; HOST and PORT in it are the place's to fill in."""
    seed = recipe.seed + index
    if recipe.engine.kind == "embedded":
        return [*embedded_engine(recipe, weights), "--seed", str(seed)]
    return server(recipe, weights, seed)


def embedded_engine(recipe: Recipe, weights: Weights) -> list[str]:
    """Return the command line of an embedded engine that begins with these weights."""
    config = recipe.engine
    argv = _server("embedded")
    argv += ["--model", str(weights.folder), "--weight-version", str(weights.version)]
    argv += ["--max-running", str(config.max_running), "--threads", str(config.threads)]
    argv += [] if config.max_length is None else ["--max-length", str(config.max_length)]
    return [*argv, "--device", recipe.train.device, "--dtype", recipe.train.dtype]


def server(recipe: Recipe, weights: Weights, seed: int) -> list[str]:
    """Return the command line of a server that begins with these weights; the recipe's flags win."""
    kind = recipe.engine.kind
    own = vllm_flags(weights) if kind == "vllm" else sglang_flags(recipe, weights)
    given = arguments({**own, "dtype": recipe.train.dtype, SERVERS[kind].seed: seed, **recipe.engine.flags})
    return [*_server("servers"), "--kind", kind, "--python", server_python(recipe), "--", *given]


def sglang_flags(recipe: Recipe, weights: Weights) -> dict[str, Flag]:
    """Return what SGLang alone is told."""
    own: dict[str, Flag] = {"model-path": str(weights.folder), "weight-version": str(weights.version)}
    if recipe.train.device == "cpu":
        own["device"] = "cpu"
    if recipe.engine.colocated:
        own["enable-memory-saver"] = True
    return own


def vllm_flags(weights: Weights) -> dict[str, Flag]:
    """Return what vLLM alone is told: its logprobs are else those before the temperature."""
    return {"model": str(weights.folder), "logprobs-mode": "processed_logprobs"}


def server_python(recipe: Recipe) -> str:
    """Return the Python that has the server: a path starts at the recipe's folder, a bare name is looked up on PATH."""
    given = recipe.engine.python
    if given is None:
        return sys.executable
    # Links are not followed: a virtual environment is known by where its `python` lies.
    return os.path.abspath(Path(recipe.folder) / Path(given).expanduser()) if "/" in given else given  # noqa: PTH100


def engine_environment(recipe: Recipe) -> dict[str, str]:
    """Return the variables that an engine is started with, beside those of this process.

    vLLM takes new weights in its development mode alone.
    """
    own = {"VLLM_SERVER_DEV_MODE": "1"} if recipe.engine.kind == "vllm" else {}
    return {"OMP_NUM_THREADS": str(recipe.engine.threads), **own, **recipe.engine.env}


def _server(kind: str) -> list[str]:
    module = f"nexrl_trainer.engines.{kind}"
    return [sys.executable, "-m", module, "--exit-with-parent", "--host", HOST, "--port", PORT]
