"""A step's updates on a real backend: what reaches the weights is what the recipe says."""

import asyncio

import msgspec
import pytest
import torch
from trajectories import group, sequence, trajectory
from transformers import LlamaConfig, LlamaForCausalLM

from nexrl.records import Float32s
from nexrl_trainer.batches.scoring import Scorers, choose
from nexrl_trainer.batches.selection import lay_out
from nexrl_trainer.loop import learn
from nexrl_trainer.policy.torch_backend import TorchBackend
from nexrl_trainer.recipe import Recipe
from nexrl_trainer.recipe.algorithm import Algorithm
from nexrl_trainer.recipe.train import Train


class InProcess:
    """A backend in this process, awaited as a placed one is."""

    def __init__(self, folder):
        self.backend = TorchBackend(folder, Train(device="cpu"))

    async def forward(self, datums):
        return self.backend.forward(datums)

    async def forward_backward(self, datums, objective):
        return self.backend.forward_backward(datums, objective)

    async def optim_step(self, optimizer):
        return self.backend.optim_step(optimizer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=61,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            initializer_range=0.3,
        )
    ).save_pretrained(path)
    return path


OFF = 0.1
"""What the engine's logprobs lie above the policy's."""


def groups_of(policy):
    """Return two groups of rollouts of two calls each, sampled almost as the policy would."""

    def sampled(item):
        plain = trajectory("x", 0.0, item)
        [datum] = lay_out([group(plain)], Algorithm(), 3).datums
        [logprobs] = policy.backend.forward([datum])
        return msgspec.structs.replace(item, logprobs=Float32s(value + OFF for value in logprobs))

    return [
        group(
            *(
                trajectory(f"{name}{index}", reward, sampled(sequence(turns=2, trained=3 + index)))
                for index, reward in enumerate(rewards)
            )
        )
        for name, rewards in {"a": [1.0, 0.0, 0.0], "b": [0.0, 1.0, 0.5]}.items()
    ]


def learned(folder, **settings):
    """Train one step; return each update's metrics and the policy."""
    recipe = msgspec.convert(
        {
            "name": "r",
            "steps": 1,
            "model": {"path": str(folder)},
            "tasks": {"train": "t"},
            "agent": {"command": ["a"]},
            "reward": "r.py",
            "train": {"learning_rate": 1e-2},
            "algorithm": settings,
        },
        Recipe,
    )
    policy = InProcess(folder)
    other = InProcess(folder)
    scorers = Scorers(**dict.fromkeys(recipe.algorithm.scorers, other))

    async def step():
        selection = await choose(groups_of(policy), recipe.algorithm, 3, scorers)
        return await learn(policy, selection.datums, recipe, 0)

    return asyncio.run(step()), policy


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"advantage": "dr_grpo", "normalise": "constant", "constant_length": 20},
        {"loss": "gspo"},
        {"loss": "cispo", "advantage": "rloo"},
        {"loss": "sapo", "normalise": "rollout"},
        {"loss": "reinforce", "importance": {"correction": "mask"}},
        {"loss": "cross_entropy", "advantage": "best"},
        {"ratio_to": "proximal", "importance": {"correction": "truncate", "level": "sequence"}, "dual_clip": 3.0},
        {"kl": {"coefficient": 0.1, "estimator": "k2"}, "entropy": 0.01},
        {"kl": {"coefficient": 0.1, "place": "reward"}, "advantage": "reinforce_pp"},
        {"advantage": "distillation", "loss": "reinforce", "teacher": "elsewhere"},
    ],
    ids=str,
)
def test_every_family_trains_on_a_real_backend(folder, settings):
    updates, policy = learned(folder, **settings, minibatches=2, epochs=2)
    assert len(updates) == 4
    assert all(torch.isfinite(torch.tensor(list(update.values()))).all() for update in updates)
    before = LlamaForCausalLM.from_pretrained(folder).state_dict()["lm_head.weight"]
    assert updates[0]["grad_norm"] > 0
    after = dict(policy.backend.model.named_parameters())
    name = next(name for name in after if name.endswith("lm_head.weight"))
    assert not torch.equal(after[name], before)


def test_against_proximal_logprobs_the_first_update_has_ratio_one_and_later_ones_have_not(folder):
    updates, _ = learned(folder, ratio_to="proximal", epochs=2)
    assert updates[0]["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert updates[0]["ratio_p01"] == pytest.approx(1.0, abs=2e-3)
    assert abs(updates[1]["ratio"] - 1.0) > 1e-3
    assert updates[0]["gap"] == pytest.approx(OFF, abs=1e-4)


def test_a_step_is_normalised_as_the_recipe_says(folder):
    settings = {"advantage": "dr_grpo", "normalise": "constant"}
    short, long = (learned(folder, **settings, constant_length=length)[0][0] for length in (10, 20))
    assert short["loss"] == pytest.approx(2 * long["loss"], rel=1e-5)
    assert short["loss"] != 0


def test_the_entropy_bonus_raises_entropy(folder):
    plain, _ = learned(folder, epochs=4)
    raised, _ = learned(folder, epochs=4, entropy=5.0)
    assert raised[-1]["entropy"] > plain[-1]["entropy"]


def test_the_kl_pulls_the_policy_to_its_reference(folder):
    free, _ = learned(folder, loss="reinforce", epochs=6)
    held, _ = learned(folder, loss="reinforce", epochs=6, kl={"coefficient": 20.0})
    assert held[0]["kl_reference"] == pytest.approx(0.0, abs=1e-6)
    assert held[-1]["gap"] < free[-1]["gap"] / 2


def test_without_datums_nothing_is_learned(folder):
    assert Algorithm().needs_proximal is False
    policy = InProcess(folder)
    recipe = msgspec.convert(
        {
            "name": "r",
            "steps": 1,
            "model": {"path": "m"},
            "tasks": {"train": "t"},
            "agent": {"command": ["a"]},
            "reward": "r.py",
            "algorithm": {"ratio_to": "proximal", "epochs": 2},
        },
        Recipe,
    )
    assert asyncio.run(learn(policy, [], recipe, 0)) == []
