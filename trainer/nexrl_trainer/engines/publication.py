"""Where published weights lie between trainer and engine: in the run directory, or in this machine's memory.

Either way they are files that the engine reads, or that are sent to it (`publisher.py`); in memory, nothing waits for a
disk.
"""

import contextlib
import hashlib
import math
import os
import shutil
from collections.abc import Collection, Generator
from pathlib import Path

from safetensors import safe_open

from nexrl.errors import ConfigError
from nexrl_trainer.directory import RunDirectory
from nexrl_trainer.recipe import Recipe

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder in it is this user's alone
BYTES = 4
"""Of a published weight: float32."""


@contextlib.contextmanager
def weights_folder(recipe: Recipe, directory: RunDirectory, models: Collection[Path]) -> Generator[Path]:
    """Yield the folder for the weights of these models; one in memory is gone afterwards.

    Raises ConfigError where the memory has no room for two versions: the engine's, and the one that replaces it.
    """
    if recipe.engine.publication != "shared_memory":
        yield directory.weights
        return
    folder = _in_memory(directory)
    # A run that was killed left its own behind.
    shutil.rmtree(folder, ignore_errors=True)
    _refuse_too_large(models)
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(f"engine.publication=shared_memory: {folder}: {error.strerror}; use disk") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _in_memory(directory: RunDirectory) -> Path:
    name = hashlib.sha256(str(directory.path.resolve()).encode()).hexdigest()[:12]
    return SHARED_MEMORY / f"nexrl-{os.getuid()}-{name}"


def _refuse_too_large(models: Collection[Path]) -> None:
    if not SHARED_MEMORY.is_dir():
        raise ConfigError(f"engine.publication=shared_memory: no {SHARED_MEMORY} on this machine; use disk")
    needed, free = 2 * BYTES * sum(map(_count, models)), shutil.disk_usage(SHARED_MEMORY).free
    if needed > free:
        named = ", ".join(map(str, models))
        raise ConfigError(
            f"engine.publication=shared_memory: two versions of {named} take {needed / 2**20:,.0f} MiB, "
            f"{SHARED_MEMORY} has {free / 2**20:,.0f} free: use disk, or make it larger (in a container: --shm-size)"
        )


def _count(model: Path) -> int:
    """Return the number of weights of a model in Hugging Face layout."""
    total = 0
    for file in model.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            total += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    return total
