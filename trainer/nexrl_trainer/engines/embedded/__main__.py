"""`python -m nexrl_trainer.engines.embedded`: load a model, serve it, stop when told to."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from nexrl.errors import ConfigError
from nexrl.service import serve_until_stopped


def main(
    *,
    model: Annotated[Path, typer.Option(help="Directory in Hugging Face layout: config.json, *.safetensors.")],
    host: Annotated[str, typer.Option(help="Address to serve on. There is no authentication: keep it local.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to serve on; 0 takes a free one.", min=0, max=65535)] = 0,
    max_running: Annotated[
        int, typer.Option(help="Requests computed at once; more of them wait. Each has room in memory.", min=1)
    ] = 64,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens of prompt and completion together. Default: what the model has.", min=2)
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto: a GPU where there is one.")] = "auto",
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="What the model computes in.")] = "float32",
    threads: Annotated[int, typer.Option(help="CPU threads torch may use.", min=1)] = 1,
    seed: Annotated[
        int | None, typer.Option(help="Seed of requests without sampling_seed. Default: another one every start.")
    ] = None,
    weight_version: Annotated[int, typer.Option(help="Version of the weights in --model.", min=0)] = 0,
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", help="Stop when standard input closes: for a process that starts us.")
    ] = False,
) -> None:
    """Serve a causal language model over SGLang's native HTTP API (/generate with token ids), in one torch process.

    Prints `ready http://HOST:PORT` once it serves. Stops on SIGTERM and SIGINT.

    Try it: curl $URL/generate -d '{"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 8}}'
    """
    import torch
    from transformers.utils import logging

    from nexrl_trainer.engines.embedded.model import detokeniser, load
    from nexrl_trainer.engines.embedded.scheduler import Scheduler
    from nexrl_trainer.engines.embedded.server import Engine, serving

    async def serve() -> None:
        async with serving(Engine(loaded, scheduler, model), host, port) as bound:
            await serve_until_stopped(host, bound, exit_with_parent=exit_with_parent)

    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    try:
        loaded = load(model, slots=max_running, max_length=max_length, device=device, dtype=dtype)
        scheduler = Scheduler(loaded, weight_version=weight_version, detokenise=detokeniser(model), seed=seed)
        asyncio.run(serve())
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(2) from error


if __name__ == "__main__":
    typer.run(main)
