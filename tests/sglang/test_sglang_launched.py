"""`nexrl-train` with `engine: {kind: sglang}`: started by the run, killed under it, started again, stopped with it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest
from sglang_models import true_logprobs
from sglang_world import EXACT, FLAGS, PYTHON, VARIABLES

from nexrl.records import decode
from nexrl_trainer.batches.datums import Datum

AGENT = """
import json, os, urllib.request
messages = []
for question in ("What is 2 + 3?", "And once more?"):
    messages.append({"role": "user", "content": question})
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps({"model": "any", "messages": messages, "max_tokens": 60, "temperature": 1.0}).encode(),
        {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=1200) as reply:
        messages.append(json.load(reply)["choices"][0]["message"])
"""
REWARD = """
import random
import nexrl

@nexrl.reward
def different() -> float:
    return random.random()
"""
STEPS = 4


def write_recipe(folder: Path, model: Path, **engine) -> Path:
    recipe = {
        "name": "launched",
        "steps": STEPS,
        "model": {"path": str(model)},
        "tasks": {"train": "tasks.jsonl"},
        "agent": {"command": ["python", "agent.py"], "timeout_s": 1500, "concurrency": 4, "attempts": 3},
        "reward": "reward.py",
        "rollouts": {"groups_per_step": 2, "group_size": 3, "max_staleness": 1},
        "train": {"learning_rate": 1e-3, "device": "cpu"},
        "engine": {"kind": "sglang", "python": str(PYTHON), "flags": FLAGS, "env": VARIABLES, **engine},
        "checkpoints": {"keep": STEPS + 1},
        "keep_batches": True,
    }
    (folder / "agent.py").write_text(AGENT)
    (folder / "reward.py").write_text(REWARD)
    (folder / "tasks.jsonl").write_text("{}\n" * 3)
    path = folder / "recipe.yaml"
    path.write_bytes(msgspec.json.encode(recipe))
    return path


class Run:
    """A training process, read line by line."""

    def __init__(self, recipe: Path, folder: Path) -> None:
        self.mark = f"{os.getpid()}-{folder}"
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [str(Path(sys.executable).with_name("nexrl-train")), str(recipe), "--run", str(folder)],
            env={**os.environ, "SGLANG_TEST": self.mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        for process in self.living():
            process.kill()
        self.process.communicate()

    def until(self, words: str) -> str:
        """Read on to the line that holds the words."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line)
            if words in line:
                return line
        raise AssertionError(f"the run ended before it said {words!r}:\n{''.join(self.lines)}")

    def end(self) -> str:
        rest, _ = self.process.communicate(timeout=900)
        return "".join([*self.lines, rest])

    def living(self) -> list[psutil.Process]:
        """Every process the run has started and that is still there."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SGLANG_TEST") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found


def command_of(process: psutil.Process) -> str:
    """Return how a process was started; nothing of one that has ended since it was found."""
    try:
        return " ".join(process.cmdline()[:4])
    except psutil.NoSuchProcess:
        return ""


def weights_by_version(run: Path, model: Path) -> dict[int, Path]:
    """Return the checkpoint that holds each weight version."""
    folders = {0: model}
    for folder in sorted(run.glob("checkpoints/step-*")):
        folders[msgspec.json.decode((folder / "state.json").read_bytes())["version"]] = folder
    return folders


def assert_sampled(datum: Datum, folders: dict[int, Path]) -> set[int]:
    """Every trained token's logprob is that of the weights it names; return which those are."""
    ids, named = list(datum.ids), set()
    for at, trained in enumerate(datum.loss_mask):
        if trained:
            version = datum.weight_versions[at]
            named.add(version)
            true = true_logprobs(folders[version], ids[:1], ids[1:])[at - 1]
            assert datum.logprobs[at] == pytest.approx(true, abs=EXACT), (at, version)
    return named


@pytest.mark.parametrize("publication", ["disk", "broadcast"])
def test_a_server_that_is_killed_comes_back_with_the_current_weights_and_the_run_goes_on(
    weights, tmp_path, publication
):
    run = tmp_path / "run"
    with Run(write_recipe(tmp_path, weights[0], publication=publication), run) as training:
        training.until("step 2/")
        [server] = [one for one in training.living() if "sglang.launch_server" in command_of(one)]
        server.send_signal(signal.SIGKILL)
        said = training.until("started again with weights")
        assert re.search(r"engine ended \(exit code \d+\): started again with weights [12], restart 1 of 3", said)
        output = training.end()
        assert training.process.returncode == 0, output
        deadline = time.monotonic() + 30
        while training.living():
            assert time.monotonic() < deadline, training.living()
            time.sleep(0.2)
    folders = weights_by_version(run, weights[0])
    batches = [decode(file.read_bytes(), list[Datum]) for file in sorted(run.glob("batches/*.msgpack"))]
    assert len(batches) == STEPS
    named = set().union(*(assert_sampled(datum, folders) for batch in batches for datum in batch))
    assert len(named) > 2


def test_a_flag_that_the_installed_version_does_not_have_is_refused_before_the_server_starts(weights, tmp_path):
    recipe = write_recipe(tmp_path, weights[0], flags={"mem-fraction": 0.5})
    with Run(recipe, tmp_path / "run") as training:
        output = training.end()
    assert training.process.returncode
    words = re.sub(r"\s+", " ", output)
    assert "engine.flags.mem-fraction: the installed SGLang has no such flag; did you mean mem-fraction-static" in words
    assert not (tmp_path / "run/logs/engine.log").exists()
