"""Rollouts that go on while a step trains, with real processes: how old what is trained is, and what a kill leaves."""

import os
import re
import signal
from collections import Counter

import pytest
from main_job import PLAIN, ROOT, batches, ours, read_json_lines, start, train, wait_for, wait_until

pytestmark = pytest.mark.slow
ASYNCHRONOUS = ("rollouts={groups_per_step: 2, group_size: 3, max_staleness: 1}", "checkpoints.every=2")


def ages(folder):
    """Count trained tokens by how many weight versions they are behind the weights they trained."""
    versions = [line["version"] for line in read_json_lines(folder / "metrics.jsonl") if line["kind"] == "step"]
    return Counter(
        version - sampled
        for version, datums in zip(versions, batches(folder), strict=True)
        for datum in datums
        for sampled, flag in zip(datum.weight_versions, datum.loss_mask, strict=True)
        if flag
    )


def test_no_trained_token_is_older_than_allowed_and_rollouts_do_run_ahead(model, tmp_path):
    code, output = train(PLAIN, tmp_path / "run", "steps=4", *ASYNCHRONOUS, model=model)
    assert code == 0, output
    steps = [line for line in read_json_lines(tmp_path / "run/metrics.jsonl") if line["kind"] == "step"]
    found = ages(tmp_path / "run")
    assert set(found) == {0, 1}
    assert [line["rollouts"] for line in steps] == [6] * 4
    assert max(line["staleness_max"] for line in steps) == 1
    sessions = [datum.session for datums in batches(tmp_path / "run") for datum in datums]
    assert len(sessions) == len(set(sessions)) == 4 * 6
    table = [line for line in (ROOT / "docs/training.md").read_text().splitlines() if line.startswith("| ")]
    named = {name for line in table for name in re.findall(r"`(\w+)`", line)}
    assert len(named) > 30
    assert named - {"kl_reference"} <= steps[-1].keys()


@pytest.mark.soak
def test_after_kill_9_nothing_is_trained_twice_and_the_lost_weights_keep_their_names(model, tmp_path):
    folder = tmp_path / "run"
    process = start(PLAIN, folder, "steps=5", *ASYNCHRONOUS, model=model)
    wait_for(process, "step 4/5: rollouts")  # one step after the checkpoint of step 2
    wait_until((folder / "checkpoints/step-00002").is_dir)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not any("nexrl.cli" in line for _, line in ours()))
    lost = int((folder / "version").read_text())

    code, output = train(PLAIN, folder, "steps=5", *ASYNCHRONOUS, model=model)
    assert code == 0, output
    lines = {line["step"]: line for line in read_json_lines(folder / "metrics.jsonl") if line["kind"] == "step"}
    assert sorted(lines) == [1, 2, 3, 4, 5]
    assert lines[3]["version"] == lost + 1 > lines[2]["version"] + 1
    trained = batches(folder)
    for number, datums in enumerate(trained, start=1):
        for datum in datums:
            sampled = [v for v, flag in zip(datum.weight_versions, datum.loss_mask, strict=True) if flag]
            assert all(0 <= lines[number]["version"] - v <= 1 for v in sampled)
    sessions = [datum.session for datums in trained for datum in datums]
    assert len(sessions) == len(set(sessions))
