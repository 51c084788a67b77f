"""What a recipe says about the proxy is what the proxy puts in force: the two rooms share no code, only flags."""

from pathlib import Path

import msgspec
import pytest

from nexrl_proxy.models import Other, read_others
from nexrl_proxy.policies import Policy, read_policies
from nexrl_proxy.policy import NAMES, policy_of
from nexrl_trainer.directory import RunDirectory
from nexrl_trainer.recipe import load_recipe
from nexrl_trainer.recipe.proxy import Sampling, SamplingPolicy, SamplingRule
from nexrl_trainer.rollouts.runners.environment import shared_environment
from nexrl_trainer.rollouts.runners.runner import Services
from nexrl_trainer.services.commands import proxy, sampling_policy
from nexrl_trainer.services.running import write_models

RECIPE = """
name: r
steps: 1
model: {path: m}
tasks: {train: t.jsonl}
reward: r.py
agent: {command: [a]}
proxy: {models: {judge: {url: "http://h:1/v1", model: big, key_variable: JUDGE_KEY}}}
"""


def test_every_parameter_a_recipe_can_set_is_one_the_proxy_knows():
    assert {field.name for field in msgspec.structs.fields(Sampling)} <= NAMES


@pytest.mark.parametrize(
    ("mode", "asked", "effective"),
    [
        ("train", {"temperature": 0.0}, {"temperature": 1.0}),
        ("eval", {"temperature": 0.0}, {"temperature": 0.0, "top_p": 0.9, "max_new_tokens": 50}),
    ],
)
def test_a_recipes_policy_is_in_force_by_mode(mode, asked, effective):
    recipe = SamplingPolicy(
        train=SamplingRule(force=Sampling(temperature=1.0)),
        eval=SamplingRule(default=Sampling(temperature=0.5, top_p=0.9, max_new_tokens=50)),
    )
    assert policy_of(sampling_policy(recipe)).effective(asked, mode) == effective


def test_a_recipes_other_models_are_those_of_the_proxy_of_a_new_run(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "k")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe, directory = load_recipe(tmp_path / "recipe.yaml"), RunDirectory(tmp_path / "run")
    recipe.proxy.check()
    write_models(recipe, {"": Path("m")}, directory, {"": "http://e"})
    told = proxy(recipe, Path("m"), directory, "http://e", "http://i")
    file = Path(told[told.index("--models") + 1])
    assert read_others(file, "r") == {"judge": Other(url="http://h:1/v1", model="big", key_variable="JUDGE_KEY")}


def test_a_recipes_policies_are_those_of_the_proxy_of_a_new_run(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE + "policies: {critic: {path: c}}")
    recipe, directory = load_recipe(tmp_path / "recipe.yaml"), RunDirectory(tmp_path / "run")
    models, engines = {"": Path("m"), "critic": Path("c")}, {"": "http://e", "critic": "http://f,http://g"}
    write_models(recipe, models, directory, engines)
    told = proxy(recipe, models[""], directory, engines[""], "http://i")
    file = Path(told[told.index("--policies") + 1])
    assert read_policies(file, {}) == {"critic": Policy(engine="http://f,http://g", model="c")}


def test_keys_of_other_models_are_not_in_an_agents_environment():
    services = Services(proxy="http://p", ingest="http://i", model="m", secrets=frozenset({"JUDGE_KEY"}))
    inherited = {"JUDGE_KEY": "secret", "PATH": "/bin"}
    assert shared_environment(services, "k", {}, inherited).get("JUDGE_KEY") is None
    assert shared_environment(services, "k", {}, inherited)["PATH"] == "/bin"
    # Unless the recipe says so.
    assert shared_environment(services, "k", {"JUDGE_KEY": "given"}, inherited)["JUDGE_KEY"] == "given"
