"""What engines are started with: from a recipe to a command line."""

import sys
from pathlib import Path

import msgspec
import pytest

from nexrl.errors import ServiceError
from nexrl_trainer import cluster
from nexrl_trainer.engines.fleet import Weights
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.recipe.engine import Engine
from nexrl_trainer.recipe.train import Train
from nexrl_trainer.recipe.tree import Model, Recipe, Tasks
from nexrl_trainer.services import commands

WEIGHTS = Weights(Path("/run/weights/v000007"), 7)
SERVER = [sys.executable, "-m", "nexrl_trainer.engines.servers", "--exit-with-parent"]


def recipe(engine, **changes):
    made = Recipe(
        name="r",
        seed=5,
        steps=3,
        model=Model(path="m"),
        tasks=Tasks(train="t.jsonl"),
        agent=Agent(command=["python", "agent.py"]),
        reward="reward.py",
        engine=engine,
        folder="/recipes/mine",
    )
    return msgspec.structs.replace(made, **changes)


def test_sglang_begins_with_the_runs_weights_dtype_device_and_a_seed_of_its_own():
    told = commands.engine(recipe(Engine(kind="sglang", replicas=2), train=Train(device="cpu")), WEIGHTS, 1)
    place = ["--host", commands.HOST, "--port", commands.PORT, "--kind", "sglang", "--python", sys.executable, "--"]
    weights = ["--model-path", "/run/weights/v000007", "--weight-version", "7"]
    assert told == [*SERVER, *place, *weights, "--device", "cpu", "--dtype", "float32", "--random-seed", "6"]


def test_vllm_is_started_where_it_takes_weights_and_says_exact_logprobs():
    engine = Engine(kind="vllm", updates="drained", flags={"max-model-len": 99})
    told = commands.engine(recipe(engine), WEIGHTS, 0)
    assert told[told.index("--kind") :][:2] == ["--kind", "vllm"]
    assert told[told.index("--") + 1 :] == [
        *("--model", "/run/weights/v000007", "--logprobs-mode", "processed_logprobs"),
        *("--dtype", "float32", "--seed", "5", "--max-model-len", "99"),
    ]
    assert commands.engine_environment(recipe(engine))["VLLM_SERVER_DEV_MODE"] == "1"


def test_what_the_recipe_says_to_sglang_wins():
    flags = {"dtype": "bfloat16", "random-seed": 1, "tp-size": 2, "enable-metrics": True}
    told = commands.engine(recipe(Engine(kind="sglang", flags=flags)), WEIGHTS, 0)
    assert told[told.index("--weight-version") + 2 :] == [
        *("--dtype", "bfloat16", "--random-seed", "1", "--tp-size", "2", "--enable-metrics")
    ]


def test_an_sglang_on_the_trainers_gpu_is_started_so_that_it_can_give_memory_away():
    told = commands.engine(recipe(Engine(kind="sglang", colocated=True)), WEIGHTS, 0)
    assert "--enable-memory-saver" in told
    assert "--enable-memory-saver" not in commands.engine(recipe(Engine(kind="sglang")), WEIGHTS, 0)


@pytest.mark.parametrize(
    ("given", "python"),
    [
        ("../sgl/bin/python", "/recipes/sgl/bin/python"),
        ("/opt/sgl/bin/python", "/opt/sgl/bin/python"),
        ("python3.12", "python3.12"),
        (None, sys.executable),
    ],
)
def test_sglangs_python_is_found_from_the_recipes_folder_or_on_the_path(given, python):
    assert commands.server_python(recipe(Engine(kind="sglang", python=given))) == python


def test_an_embedded_engine_begins_with_the_weights_it_is_to_have():
    told = commands.engine(recipe(Engine(max_length=99, max_running=4)), WEIGHTS, 0)
    assert "--model /run/weights/v000007 --weight-version 7 --max-running 4" in " ".join(told)
    assert "--max-length 99" in " ".join(told)
    assert told[-2:] == ["--seed", "5"]


def test_engines_have_the_threads_of_the_recipe_unless_their_variables_say_otherwise():
    assert commands.engine_environment(recipe(Engine(threads=3))) == {"OMP_NUM_THREADS": "3"}
    engine = Engine(kind="sglang", env={"OMP_NUM_THREADS": "8", "SGLANG_LOG": "x"})
    assert commands.engine_environment(recipe(engine)) == {"OMP_NUM_THREADS": "8", "SGLANG_LOG": "x"}


@pytest.mark.parametrize(
    ("gpus", "engine", "share"),
    [
        (0, {"replicas": 3}, 0.0),
        (1, {}, 1 / 2),
        (8, {"flags": {"tp-size": 2}, "replicas": 2}, 2.0),
        (8, {"flags": {"tensor-parallel-size": 2, "dp-size": 2}}, 4.0),
    ],
)
def test_engines_share_the_only_gpu_or_have_whole_ones(monkeypatch, gpus, engine, share):
    monkeypatch.setattr(cluster, "gpus", lambda: float(gpus))
    assert cluster.engine_gpus(recipe(Engine(kind="sglang", **engine))) == share


def test_weights_are_not_broadcast_between_two_processes_on_one_gpu(monkeypatch):
    monkeypatch.setattr(cluster, "gpus", lambda: 1.0)
    with pytest.raises(ServiceError, match=r"publication=broadcast: NCCL .* use disk, shared_memory or tensors"):
        cluster.engine_gpus(recipe(Engine(kind="sglang", publication="broadcast")))
    assert cluster.engine_gpus(recipe(Engine(kind="sglang", publication="broadcast"), train=Train(device="cpu"))) == 0.0


def test_more_gpus_than_there_are_are_refused_instead_of_waited_for(monkeypatch):
    monkeypatch.setattr(cluster, "gpus", lambda: 4.0)
    engine = Engine(kind="sglang", replicas=3, flags={"tp-size": 2})
    with pytest.raises(ServiceError, match=r"replicas=3 with tp-size=2, .* take 6 GPUs, the Ray cluster has 4"):
        cluster.engine_gpus(recipe(engine))
