"""The main job with its real processes: what is captured is exact, what goes wrong is told, what is stopped goes on."""

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections import Counter

import psutil
import pytest
from main_job import PLAIN, QUICKSTART, batches, ours, read_json_lines, start, train, wait_for, wait_until
from recording_engine import RecordingEngine
from transformers import AutoModelForCausalLM, AutoTokenizer

from nexrl.records import Float32s
from nexrl_trainer.services.process import ServiceProcess

pytestmark = pytest.mark.slow
one_worker = pytest.mark.xdist_group("recorded")
"""They look at the same run: in two processes it would be made twice."""


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    yield
    deadline = time.monotonic() + 90  # Ray's own agents notice a killed driver only after half a minute
    while left := ours():
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.1)


def runs_of_ones(mask):
    """Yield (begin, end) of every stretch of trained tokens. Example: 0 1 1 0 1 -> (1, 3), (4, 5)."""
    begin = None
    for index, flag in enumerate([*mask, 0]):
        if flag and begin is None:
            begin = index
        elif not flag and begin is not None:
            yield begin, index
            begin = None


@pytest.fixture(scope="module")
def recorded(model, tmp_path_factory):
    """The quick start in short, its engine attached by address and recorded: one line of recipe, as with SGLang."""
    folder = tmp_path_factory.mktemp("recorded")
    argv = [sys.executable, "-m", "nexrl_trainer.engines.embedded", "--model", str(model), "--port", "0"]
    process = ServiceProcess("engine", [*argv, "--max-length", "512"], str(folder / "engine.log"), {})
    with contextlib.ExitStack() as stack:
        stack.callback(process.stop)
        engine = stack.enter_context(RecordingEngine(process.url()))
        code, output = train(
            QUICKSTART,
            folder / "run",
            f"engine={{url: '{engine.url}'}}",
            f"model.path={model}",
            f"reward={PLAIN.parent / 'reward.py'}",
            "steps=2",
            "rollouts={groups_per_step: 2, group_size: 4}",
            "tasks.heldout=null",
        )
    assert code == 0, output
    return folder / "run", engine.generated


@one_worker
def test_what_is_trained_is_bit_for_bit_what_the_engine_returned(recorded):
    folder, generated = recorded
    # (whole ids, where the completion begins, its logprobs, the weights that sampled it), from the engine's side ...
    returned = Counter()
    for request, answer in generated:
        entries = answer["meta_info"]["output_token_logprobs"]
        assert [entry[1] for entry in entries] == answer["output_ids"]
        whole = (*request["input_ids"], *answer["output_ids"])
        logprobs = Float32s(entry[0] for entry in entries).tobytes()
        returned[whole, len(request["input_ids"]), logprobs, int(answer["meta_info"]["weight_version"])] += 1

    # ... and from the trainer's.
    trained = Counter()
    for version, datums in enumerate(batches(folder)):
        for datum in datums:
            for begin, end in runs_of_ones(datum.loss_mask):
                assert set(datum.weight_versions[begin:end]) == {version}
                trained[tuple(datum.ids[:end]), begin, datum.logprobs[begin:end].tobytes(), version] += 1

    assert trained == returned
    assert len({datum.session for datums in batches(folder) for datum in datums}) == 2 * 8


@one_worker
def test_a_run_is_on_policy_without_drift_and_its_logprobs_are_the_trainers_own(recorded):
    steps = [line for line in read_json_lines(recorded[0] / "metrics.jsonl") if line["kind"] == "step"]
    assert [line["staleness_max"] for line in steps] == [0, 0]
    assert [line["drift"] for line in steps] == [0, 0]
    # The engine's logprobs, recomputed by the trainer under the same weights in float32.
    assert max(line["gap_max"] for line in steps) < 1e-4


@one_worker
def test_a_run_leaves_a_model_people_can_use_a_summary_and_a_picture(recorded, model):
    folder = recorded[0]
    checkpoint = folder / "checkpoints/step-00002"
    loaded, original = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (checkpoint, model))
    assert loaded.keys() == original.keys()
    assert any((loaded[name] != original[name]).any() for name in loaded)
    assert AutoTokenizer.from_pretrained(checkpoint).chat_template
    assert (folder / "reward.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary.keys() >= {"success_before", "success_after", "steps", "wall_s", "trained_tokens", "drift"}


def test_a_failed_rollout_is_data_and_the_run_goes_on(model, tmp_path):
    tasks = tmp_path / "tasks.jsonl"
    troubles = ["none", "crash", "hang", "silent", "misjudged"]
    tasks.write_text("".join(json.dumps({"id": name, "trouble": name}) + "\n" for name in troubles))
    settings = ["steps=1", "rollouts={groups_per_step: 5, group_size: 2}", "agent.timeout_s=8", "agent.concurrency=8"]
    code, output = train(PLAIN, tmp_path / "run", *settings, model=model, TEST_TASKS=str(tasks))
    assert code == 0, output
    [step] = read_json_lines(tmp_path / "run/metrics.jsonl")
    assert (step["rollouts"], step["failed"]) == (10, 8)
    for reason in (
        "agent: exit code 1: KeyError: 'price'",
        "agent: no end within 8 s",
        "agent: it ended without a model call; does it read OPENAI_BASE_URL and OPENAI_API_KEY?",
        "reward 'different': ZeroDivisionError: the judge divided by :100:",
    ):
        assert output.count(f"rollout failed: {reason}") == 2, output
    assert "Traceback" not in output


@pytest.mark.soak
def test_a_run_that_gets_no_better_stops_early_and_says_which_step_was_best(model, tmp_path):
    # Every rollout succeeds, before and after: no step is better than the model as it was.
    heldout = "tasks.heldout=[{path: fine.jsonl, id: 'heldout-{id}'}]"
    settings = [heldout, "evaluation={every: 1, patience: 1, success_at: 0}", "steps=5"]
    code, output = train(PLAIN, tmp_path / "run", *settings, model=model)
    assert code == 0, output
    assert "stopped early after 1 step:" in output
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert [summary[name] for name in ("steps", "success_after", "best_step")] == [1, 1.0, 0]
    saved = tmp_path / "run/checkpoints"
    assert [item.name for item in saved.iterdir()] == ["step-00001"]


@pytest.mark.soak
def test_a_reference_policy_stays_where_it_was_while_the_policy_moves_away_from_it(model, tmp_path):
    settings = ["algorithm={advantage: reinforce_pp, kl: {coefficient: 0.1}}", "train.learning_rate=1e-3"]
    code, output = train(PLAIN, tmp_path / "run", *settings, model=model)
    assert code == 0, output
    first, second = read_json_lines(tmp_path / "run/metrics.jsonl")
    assert first["kl_reference"] == pytest.approx(0.0, abs=1e-6)
    assert second["kl_reference"] > 1e-3


@pytest.mark.soak
def test_when_every_rollout_fails_the_run_stops_and_says_why(model, tmp_path):
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"trouble": "crash"}\n')
    code, output = train(PLAIN, tmp_path / "run", "agent.attempts=2", model=model, TEST_TASKS=str(tasks))
    assert code == 1
    assert "error: step 1: all 6 rollouts failed; 6 times: agent: exit code 1: KeyError: 'price'" in output
    assert "Traceback" not in output

    # Mended, the same command goes on.
    tasks.write_text('{"trouble": "none"}\n')
    code, output = train(PLAIN, tmp_path / "run", "agent.attempts=2", "steps=1", model=model, TEST_TASKS=str(tasks))
    assert code == 0, output


def test_a_port_in_use_is_named(model, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, output = train(PLAIN, tmp_path / "run", f"ingest.port={port}", model=model)
    assert code == 1
    assert f"error: ingest.port={port}: " in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tasks.train=nowhere.jsonl", "tasks.train=nowhere.jsonl: no file"),
        ("reward=agent.py", "does not import: KeyError"),
        ("model.path=nowhere", "no directory"),
        ("agent.command=[python, agent.py, '{missing}']", "asks for 'missing'"),
        ("steps=0", ">= 1"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_told_before_anything_starts(model, tmp_path, override, message):
    code, output = train(PLAIN, tmp_path / "run", override, model=model, timeout_s=60)
    assert code == 1
    assert output.startswith("error: ")
    assert message in output
    assert "Traceback" not in output
    assert not (tmp_path / "run/logs").exists()


@pytest.mark.parametrize(
    ("moment", "delay_s"),
    [
        ("starting Ray", 1.0),
        pytest.param("step 1/3: rollouts", 0.2, marks=pytest.mark.soak),
        ("step 2/3: training", 0.0),
    ],
)
def test_ctrl_c_stops_everything_and_the_same_command_goes_on(model, tmp_path, moment, delay_s):
    folder = tmp_path / "run"
    process = start(PLAIN, folder, "steps=3", model=model)
    output = wait_for(process, moment)
    time.sleep(delay_s)
    # As a terminal does it: everybody in the foreground process group hears it.
    os.killpg(process.pid, signal.SIGINT)
    output += process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    assert "the same command goes on" in output
    assert "Traceback" not in output
    if moment == "starting Ray":
        return  # nothing had happened yet

    code, output = train(PLAIN, folder, "steps=3", model=model)
    assert code == 0, output
    steps = [line["step"] for line in read_json_lines(folder / "metrics.jsonl")]
    assert sorted(set(steps)) == [1, 2, 3]
    assert len(batches(folder)) == 3
    assert json.loads((folder / "summary.json").read_text())["steps"] == 3


def test_kill_9_loses_no_acknowledged_step_and_trains_none_twice(model, tmp_path):
    folder = tmp_path / "run"
    process = start(PLAIN, folder, "steps=3", model=model)
    wait_for(process, "step 2/3: rollouts")
    wait_until((folder / "checkpoints/step-00001").is_dir)  # written beside the second step
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    first = batches(folder)[0]
    wait_until(lambda: not any("nexrl.cli" in line for _, line in ours()))

    code, output = train(PLAIN, folder, "steps=3", model=model)
    assert code == 0, output
    assert "going on after step 1 of 3" in output
    assert "step 1/3" not in output
    assert batches(folder)[0] == first
    sessions = [datum.session for datums in batches(folder) for datum in datums]
    assert len(sessions) == len(set(sessions)) == 3 * 6
    assert [line["step"] for line in read_json_lines(folder / "metrics.jsonl")] == [1, 2, 3]


def test_a_service_that_dies_ends_the_run_with_its_name(model, tmp_path):
    process = start(PLAIN, tmp_path / "run", "steps=200", model=model)
    wait_for(process, "step 1/200: training")
    [ingest] = [pid for pid, line in ours() if "-m nexrl.cli ingest" in line]
    psutil.Process(ingest).kill()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "error: " in output
    assert "ingest" in output
    assert "Traceback" not in output
