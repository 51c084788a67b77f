"""Trackers, with the real packages: what they were given is read back from what they wrote."""

import contextlib
import io
import shutil
import struct
import sys
import threading

import msgspec
import pytest
from rich.console import Console

from nexrl.errors import ConfigError
from nexrl_trainer.directory import RunDirectory, State
from nexrl_trainer.picture import draw_rewards
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.recipe.trackers import Mlflow, Wandb
from nexrl_trainer.recipe.trackers import Trackers as Chosen
from nexrl_trainer.recipe.tree import Engine, Model, Recipe, Tasks
from nexrl_trainer.tracking import Trackers, trackers
from nexrl_trainer.tracking.redaction import without_secrets
from nexrl_trainer.tracking.tracker import measures

SECRET = "sk-this-must-stay-here"
STEP = {"kind": "step", "step": 1, "reward": 0.25, "left_out": {"stale": 3}, "best": None}
EVALUATION = {"kind": "evaluation", "step": 1, "success": 0.5, "version": 1}


def recipe_with(**chosen):
    return Recipe(
        name="tracked",
        steps=3,
        model=Model(path="m"),
        tasks=Tasks(train="t.jsonl"),
        agent=Agent(command=["python", "agent.py", f"--key={SECRET}"], env={"AGENT_KEY": SECRET}),
        reward="reward.py",
        trackers=Chosen(**chosen),
    )


class World:
    """A run directory that is started again and again, as a resumed run's is."""

    def __init__(self, path, recipe):
        path.mkdir()
        self.directory, self.recipe, self.said = RunDirectory(path), recipe, io.StringIO()

    def run(self, *lines, completed=True):
        with (
            contextlib.suppress(KeyboardInterrupt),
            Trackers.started(self.recipe, self.directory, Console(file=self.said, width=200)) as started,
        ):
            for line in lines:
                started.log(line)
            if not completed:
                raise KeyboardInterrupt
        return self

    def checkpoint(self, step):
        self.directory.draft(step)
        self.directory.commit(State(step=step), 2)

    def draw(self):
        draw_rewards([STEP, EVALUATION], self.directory.picture, "tracked")


def test_a_line_becomes_numbers_by_name():
    assert measures(STEP) == {"train/reward": 0.25, "train/left_out/stale": 3.0}
    assert measures(EVALUATION) == {"evaluation/success": 0.5, "evaluation/version": 1.0}
    assert measures({"kind": "step", "step": 2, "loss": float("nan"), "note": "text"}) == {}


def test_the_recipe_is_sent_without_secrets():
    recipe = recipe_with(mlflow=Mlflow(uri=f"http://me:{SECRET}@host:5000"))
    engine = Engine(kind="sglang", env={"HF_TOKEN": "hf-hidden", "NCCL_DEBUG": "INFO"})
    recipe = msgspec.structs.replace(recipe, reward="https://user:pw@host/reward.py", name="abc", engine=engine)
    sent = without_secrets(recipe, {"SERVICE_TOKEN": "t0ken-t0ken", "HOME": "abc", "SHORT_KEY": "abc"})
    assert sent["agent"]["env"] == {"AGENT_KEY": "(not sent)"}
    assert sent["engine"]["env"] == {"HF_TOKEN": "(not sent)", "NCCL_DEBUG": "(not sent)"}
    assert sent["agent"]["command"][2] == "--key=(not sent)"
    assert (sent["reward"], sent["name"]) == ("https://host/reward.py", "abc")
    assert "t0ken" not in str(without_secrets(recipe_with(), {"A_TOKEN": "python"}))
    assert SECRET not in str(sent)


def board(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return read


def test_tensorboard_shows_curves_recipe_and_picture_and_a_resumed_run_goes_on_in_them(tmp_path):
    world = World(tmp_path / "run", recipe_with(tensorboard=True))
    world.checkpoint(1)
    world.run(STEP, EVALUATION, {**STEP, "step": 2, "reward": 9.0}, completed=False)
    world.draw()
    world.run({**STEP, "step": 2, "reward": 0.75})
    read = board(world.directory.path / "tensorboard")
    assert [(point.step, point.value) for point in read.Scalars("train/reward")] == [(1, 0.25), (2, 0.75)]
    assert [point.value for point in read.Scalars("evaluation/success")] == [0.5]
    assert read.Images("reward curve")[0].encoded_image_string == world.directory.picture.read_bytes()
    [text] = read.Tensors("recipe")
    assert b"name: tracked" in text.tensor_proto.string_val[0]
    assert SECRET.encode() not in text.tensor_proto.string_val[0]
    assert world.said.getvalue() == ""


def test_mlflow_keeps_one_run_with_metrics_recipe_and_picture(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "store").as_uri()
    world = World(tmp_path / "run", recipe_with(mlflow=Mlflow(uri=uri, experiment="agents")))
    world.run(STEP, EVALUATION, completed=False)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("agents").experiment_id
    [before] = client.search_runs([experiment])
    assert before.info.status == "KILLED"
    world.draw()
    world.run({**STEP, "step": 2, "reward": 0.75})
    [run] = client.search_runs([experiment])
    assert (run.info.run_name, run.info.status) == ("tracked", "FINISHED")
    history = client.get_metric_history(run.info.run_id, "train/reward")
    assert [(point.step, point.value) for point in history] == [(1, 0.25), (2, 0.75)]
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"recipe.yaml", "reward.png"}
    stored = [path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in data for data in stored)
    assert world.said.getvalue() == ""


def wandb_records(path):
    """Read a .wandb file: records in the pieces of LevelDB's log format, after a head of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in {1, 4}:
            yield Record.FromString(parts)
            parts = b""


@pytest.mark.slow
def test_wandb_offline_keeps_one_run_with_history_recipe_and_picture_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["nexrl-train", f"agent.env.AGENT_KEY={SECRET}"])
    world = World(tmp_path / "run", recipe_with(wandb=Wandb(project="agents", offline=True)))
    world.run(STEP, EVALUATION, completed=False)
    world.draw()
    world.run({**STEP, "step": 2, "reward": 0.75})
    identity = msgspec.json.decode((world.directory.path / "trackers.json").read_bytes())["wandb"]
    files = sorted((world.directory.path / "wandb").glob(f"offline-run-*/run-{identity}.wandb"))
    assert len(files) == 2
    records = [record for file in files for record in wandb_records(file)]
    history = [
        {"/".join(item.nested_key): msgspec.json.decode(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert [(line["step"], line["train/reward"]) for line in history if "train/reward" in line] == [
        (1, 0.25),
        (2, 0.75),
    ]
    assert [line["evaluation/success"] for line in history if "evaluation/success" in line] == [0.5]
    assert [line["reward curve/_type"] for line in history if "reward curve/_type" in line] == ["image-file"]
    runs = [(record.run.project, record.run.host) for record in records if record.HasField("run")]
    assert runs == [("agents", "nexrl")] * 2
    config = {item.key for record in records if record.HasField("config") for item in record.config.update}
    assert {"name", "algorithm", "train"} <= config
    exits = [record.exit.exit_code for record in records if record.HasField("exit")]
    assert exits == [1, 0]
    everything = [path for path in (world.directory.path / "wandb").rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in path.read_bytes() for path in everything)
    assert {path.suffix for path in everything if "files" in path.parts} == {".png"}
    assert world.said.getvalue() == ""


@pytest.mark.slow
def test_wandb_without_a_key_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"trackers\.wandb: no key; run `wandb login`"):
        World(tmp_path / "run", recipe_with(wandb=Wandb())).run()


@pytest.mark.parametrize(
    ("name", "chosen"), [("tensorboard", True), ("wandb", Wandb()), ("mlflow", Mlflow(uri="http://host"))]
)
def test_a_tracker_that_is_not_installed_is_refused_with_the_command_that_installs_it(monkeypatch, name, chosen):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"trackers\.{name}: it is not installed; pip install 'nexrl\[{name}\]'"):
        Chosen(**{name: chosen}).check()


def test_an_mlflow_server_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ConfigError, match=r"trackers\.mlflow\.uri=http://127\.0\.0\.1:9: .*is the server running"):
        World(tmp_path / "run", recipe_with(tensorboard=True, mlflow=Mlflow(uri="http://127.0.0.1:9"))).run()


def test_a_tracker_that_fails_says_so_once_and_stops_neither_the_run_nor_the_others(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = tmp_path / "store"
    world = World(tmp_path / "run", recipe_with(tensorboard=True, mlflow=Mlflow(uri=store.as_uri())))
    started = Trackers.started(world.recipe, world.directory, Console(file=world.said, width=200))
    shutil.rmtree(store)
    store.write_text("the disk is gone")
    for step in (1, 2, 3):
        started.log({**STEP, "step": step})
    started.close()
    assert world.said.getvalue().count("tracker mlflow: ") == 1
    assert "The run goes on; metrics.jsonl has every line" in world.said.getvalue()
    read = board(world.directory.path / "tensorboard")
    assert [point.step for point in read.Scalars("train/reward")] == [1, 2, 3]


def test_a_tracker_that_hangs_holds_up_neither_the_loop_nor_the_end(tmp_path, monkeypatch):
    class Hanging:
        identity = "1"

        def log(self, step, measures):
            threading.Event().wait()

        def close(self, picture, *, completed):
            raise AssertionError("never reached")

    monkeypatch.setitem(trackers.STARTS, "tensorboard", lambda *_: Hanging())
    monkeypatch.setattr(trackers, "CLOSE_S", 0.05)
    world = World(tmp_path / "run", recipe_with(tensorboard=True)).run(STEP, STEP)
    assert "tracker tensorboard: it did not take everything in time" in world.said.getvalue()
