"""Run programs that a model wrote: a process of its own, limits on time, memory, files, and no network.

A limit, not a fortress: the program runs as the same user and can read what that user can. For anything hostile, run
the trainer's reward functions in a container.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from nexrl import confine
from nexrl.errors import RewardError

FILE_BYTES = 16 << 20
"""Of each file it writes, its output too."""
READ_BYTES = 1 << 20


class Ran(Struct, frozen=True, kw_only=True):
    """How a program ended."""

    exit_code: int
    """128 + n: ended by signal n."""
    timed_out: bool
    stdout: str
    """Its first megabyte."""
    stderr: str


def run_confined(
    command: Sequence[str], *, files: dict[str, str], stdin: str, timeout_s: float, memory_mib: int, network: bool
) -> Ran:
    """Run a command in a new folder that holds `files`, with nothing in its environment but PATH.

    Raises RewardError where the network cannot be kept from it on this machine.
    """
    limits = {"memory": memory_mib << 20, "cpu_s": int(timeout_s) + 1, "file": FILE_BYTES, "network": network}
    with tempfile.TemporaryDirectory(prefix="nexrl-", ignore_cleanup_errors=True) as outer:
        folder, streams = Path(outer, "work"), [Path(outer, name) for name in ("in", "out", "err")]
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        streams[0].write_text(stdin)
        with streams[0].open("rb") as in_, streams[1].open("wb") as out, streams[2].open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", confine.__file__, json.dumps(limits), *command],
                stdin=in_,
                stdout=out,
                stderr=err,
                cwd=folder,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
            timed_out = _wait(process, timeout_s)
        stdout, stderr = (_beginning(stream) for stream in streams[1:])
    if process.returncode == confine.CANNOT and stderr.startswith("unshare: "):
        raise RewardError(f"cannot run code without a network here ({stderr}); allow user namespaces, or network=True")
    code = process.returncode
    return Ran(exit_code=code if code >= 0 else 128 - code, timed_out=timed_out, stdout=stdout, stderr=stderr)


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Wait for the end, or bring it about; return whether the time was up."""
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return True
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return False


def _beginning(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(READ_BYTES).decode(errors="replace")
