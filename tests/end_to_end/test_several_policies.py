"""Two models learn in one run: one agent asks both, each trains on its own tokens, both go on after kill -9."""

import json
import os
import signal

import msgspec
import pytest
from main_job import ours, start, train, wait_for, wait_until
from safetensors.torch import load_file

from nexrl.records import decode
from nexrl_trainer.batches.datums import Datum
from nexrl_trainer.directory import RunDirectory

pytestmark = pytest.mark.slow

AGENT = """
import json, os, sys, urllib.request

def ask(model, said):
    body = {"model": model, "messages": [{"role": "user", "content": said}], "max_tokens": 8}
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)["choices"][0]["message"]["content"] or ""

drafted = ask("any", sys.argv[1])
print(drafted, ask("critic", f"Is this right? {drafted}"))
"""
REWARD = """
import nexrl

@nexrl.reward(group=True)
def by_turns(answers) -> list[float]:
    return [float(number % 2) for number, _ in enumerate(answers)]
"""
STEPS = 2


@pytest.fixture
def recipe(tmp_path, model):
    rows = [{"id": f"t{index}", "question": f"What is {index} + 1?"} for index in range(4)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "agent.py").write_text(AGENT)
    (tmp_path / "reward.py").write_text(REWARD)
    settings = {
        "name": "two",
        "steps": STEPS,
        "model": {"path": str(model)},
        "policies": {"critic": {"path": str(model)}},
        "tasks": {"train": "tasks.jsonl"},
        "agent": {"command": ["python", "agent.py", "{question}"], "timeout_s": 60, "concurrency": 4},
        "reward": "reward.py",
        "rollouts": {"groups_per_step": 1, "group_size": 4},
        "train": {"learning_rate": 1e-3},
        "engine": {"max_length": 256},
        "algorithm": {"kl": {"coefficient": 0.01}},
        "checkpoints": {"keep": STEPS},
        "keep_batches": True,
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(settings))
    return tmp_path / "recipe.yaml"


def weights(folder):
    return load_file(folder / "model.safetensors")


def differ(one, other):
    return any(not one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_each_learns_from_what_it_said_and_a_killed_run_goes_on_with_both(recipe, tmp_path, model, killed):
    folder = tmp_path / "run"
    if killed:
        process = start(recipe, folder)
        wait_for(process, f"step {STEPS}/{STEPS}: rollouts")
        wait_until((folder / "checkpoints/step-00001").is_dir)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        wait_until(lambda: not any("nexrl.cli" in line for _, line in ours()))
    code, output = train(recipe, folder)
    assert code == 0, output

    last = folder / f"checkpoints/step-{STEPS:05d}"
    began, mine, critics = weights(model), weights(last), weights(last / "policies/critic")
    assert differ(began, mine)
    assert differ(began, critics)
    assert differ(mine, critics)
    assert (last / "policies/critic/tokenizer.json").is_file()
    assert f"critic         {last / 'policies/critic'}" in output

    steps = [line for line in RunDirectory(folder).metrics() if line["kind"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    for line in steps:
        datums = decode((folder / f"batches/step-{line['step']:05d}.msgpack").read_bytes(), list[Datum])
        assert sorted(item.policy for item in datums) == [*[""] * 4, *["critic"] * 4]
        versions = {version for item in datums for version in item.weight_versions if version >= 0}
        assert versions == {line["version"]}
        # Both engines sampled with what their trainers had published: recomputed logprobs agree.
        assert (line["gap_max"] < 1e-4, line["drift"]) == (True, 0)
    assert msgspec.json.decode((folder / "summary.json").read_bytes())["steps"] == STEPS
