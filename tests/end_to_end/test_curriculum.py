"""A curriculum in the main job: what is drawn next depends on what happened, and kill -9 does not change it."""

import json
import os
import signal

import pytest
from main_job import PLAIN, ours, read_json_lines, start, train, wait_for, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.soak]

REWARD = """
import nexrl

@nexrl.reward
def as_hard_as_it_is(task) -> float:
    return float(task["easy"])
"""
STEPS = 5


@pytest.fixture
def settings(tmp_path):
    rows = [{"id": f"t{index}", "trouble": "none", "easy": index % 2} for index in range(12)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "reward.py").write_text(REWARD)
    tasks = f"tasks={{train: '{tmp_path / 'tasks.jsonl'}', order: curriculum, curriculum: {{floor: 0.01, pace: 1}}}}"
    return [tasks, f"reward={tmp_path / 'reward.py'}", f"steps={STEPS}", "rollouts.group_size=2"]


def state(folder):
    return json.loads((folder / f"checkpoints/step-{STEPS:05d}/state.json").read_text())


def test_a_killed_run_draws_the_tasks_that_it_would_have_drawn(model, tmp_path, settings):
    code, output = train(PLAIN, tmp_path / "straight", *settings, model=model)
    assert code == 0, output

    process = start(PLAIN, tmp_path / "killed", *settings, model=model)
    wait_for(process, f"step 3/{STEPS}: rollouts")
    wait_until((tmp_path / "killed/checkpoints/step-00001").is_dir)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not any("nexrl.cli" in line for _, line in ours()))
    code, output = train(PLAIN, tmp_path / "killed", *settings, model=model)
    assert code == 0, output

    straight, killed = (read_json_lines(tmp_path / name / "draws.jsonl") for name in ("straight", "killed"))
    assert killed == straight
    assert [line["number"] for line in straight] == list(range(2 * STEPS))
    rates = state(tmp_path / "killed")["rates"]
    assert rates == state(tmp_path / "straight")["rates"] == {name: int(name[1:]) % 2 for name in rates}
    # With pace 1 a task that was tried once is drawn 26 times less often than one that never was.
    assert len(rates) >= STEPS + 2
