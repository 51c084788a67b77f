"""Start `nexrl-train` as people do, and look at what it left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

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
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
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
    """Every process that belongs to some run: services, agents and Ray's own."""
    marks = ("nexrl", "raylet", "gcs_server", "ray::", "plain/agent.py", "agent.py")
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if process.info["status"] == psutil.STATUS_ZOMBIE or "pytest" in line or process.pid == os.getpid():
            continue
        if any(mark in line for mark in marks):
            found.append((process.pid, line[:200]))
    return found
