"""A real `nexrl ingest` in a process of its own, to be killed at any moment."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Self

from ingest_world import ADMIN_KEY


class Process:
    def __init__(self, data: Path, *flags: str, port: int = 0) -> None:
        command = [sys.executable, "-m", "nexrl_ingest", "ingest", "--data", str(data), "--port", str(port), *flags]
        environment = os.environ | {"NEXRL_ADMIN_KEY": ADMIN_KEY}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        said = self.process.stdout.readline().split()
        assert said[:1] == ["ready"], self.process.communicate(timeout=20)
        self.url = said[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End it at once, as `kill -9` does."""
        self.process.kill()
        self.process.communicate()

    def end(self, number: int | None = None) -> str:
        """Send a signal, or close standard input; return what was said on standard error."""
        if number is not None:
            self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=20)
        return errors

    def may_write(self, size: int = resource.RLIM_INFINITY) -> None:
        """Let its files grow to `size` bytes, as a disk with that much room would."""
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
