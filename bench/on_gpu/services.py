"""SGLang, ingest and the proxy as processes, started as a run starts them."""

import contextlib
import sys
from collections.abc import Generator
from pathlib import Path

from msgspec import Struct

from nexrl.keys import ADMIN_KEY_VARIABLE, attempt_key, new_admin_key
from nexrl_trainer.services.process import ServiceProcess

START_S = 1800.0


class Started(Struct, frozen=True, kw_only=True):
    """Where they answer, and the key of an attempt."""

    engine: str
    proxy: str
    key: str


@contextlib.contextmanager
def started(model: Path, python: str, flags: list[str], folder: Path) -> Generator[Started]:
    """Yield the three, stopped afterwards; their logs are in the folder."""
    key = new_admin_key()
    with contextlib.ExitStack() as stack:

        def start(name: str, command: list[str]) -> str:
            command = [sys.executable, "-m", *command]
            process = ServiceProcess(name, command, str(folder / f"{name}.log"), {ADMIN_KEY_VARIABLE: key})
            stack.callback(process.stop)
            return process.url(START_S)

        server = ["nexrl_trainer.engines.servers", "--python", python, "--exit-with-parent", "--"]
        given = ["--model-path", str(model), "--weight-version", "0", *flags]
        engine = start("sglang", [*server, *given])
        nexrl = ["nexrl.cli"]
        ends = ["--port", "0", "--exit-with-parent"]
        ingest = start("ingest", [*nexrl, "ingest", "--data", str(folder / "ingest"), *ends])
        where = ["--engine", engine, "--ingest", ingest, "--model", str(model), "--data", str(folder / "proxy")]
        proxy = start("proxy", [*nexrl, "proxy", *where, *ends])
        yield Started(engine=engine, proxy=proxy, key=attempt_key("bench", key))
