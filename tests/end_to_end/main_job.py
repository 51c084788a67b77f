"""Start `nexrl-train` as people do, and look at what it left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from nexrl.records import decode
from nexrl_trainer.batches.datums import Datum

MARK, MARKED = "END_TO_END_TEST", f"{os.getpid()}"
"""In the environment of whatever our runs start, and so of whatever that starts."""
ROOT = Path(__file__).parents[2]
PLAIN = Path(__file__).parent / "plain/recipe.yaml"
QUICKSTART = ROOT / "recipes/quickstart/recipe.yaml"


def command(name):
    """A console script of the environment the tests run in."""
    return str(Path(sys.executable).with_name(name))


def start(recipe, folder, *overrides, model=None, **environment):
    """Start a training process in a session of its own; its output is collected."""
    if model:
        environment["TEST_MODEL"] = str(model)
    return subprocess.Popen(
        [command("nexrl-train"), str(recipe), "--run", str(folder), *overrides],
        env={**os.environ, **environment, MARK: MARKED},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A test runner in the background ignores Ctrl-C, and so would all its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads are started yet
    )


def train(recipe, folder, *overrides, model=None, timeout_s=240, **environment):
    """Run a recipe to its end; return exit code and output."""
    process = start(recipe, folder, *overrides, model=model, **environment)
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"the run did not end within {timeout_s} s; it said:\n{output}") from None
    return process.returncode, output


def read_json_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def ours():
    """Every process our runs started and that is still there: services, agents and Ray's own."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == MARKED and process.status() != psutil.STATUS_ZOMBIE:
                found.append((process.pid, " ".join(process.cmdline())[:200]))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def batches(folder):
    return [decode(path.read_bytes(), list[Datum]) for path in sorted((folder / "batches").glob("*.msgpack"))]


def wait_for(process, text):
    """Read the process's output up to a line that holds `text`; return what was read."""
    read = ""
    for line in process.stdout:
        read += line
        if text in line:
            return read
    raise AssertionError(f"never said {text!r}:\n{read}")


def wait_until(true, seconds=20):
    """Ask again and again, until it is."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, ours()
        time.sleep(0.05)
