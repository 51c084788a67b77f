"""Three short learning curves, to the digits: a refactor that changes what is learned says which number moved.

python tests/trainer/test_golden_learning.py    writes golden_learning.json anew, for a change that was meant
"""

import asyncio
import json
import random
import tempfile
from pathlib import Path

import pytest
import torch
from backend_world import make_model
from test_learning import InProcess
from transformers import AutoModelForCausalLM

from nexrl.records import Float32s, Group, Int32s, Reward, Sequence, Task, TrainingGroup, Trajectory, Turn
from nexrl_trainer.batches.scoring import Scorers, choose
from nexrl_trainer.loop import learn
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.recipe.algorithm import Algorithm, Correction, Overlong
from nexrl_trainer.recipe.train import Train
from nexrl_trainer.recipe.tree import Model, Recipe, Rollouts, Tasks

GOLDEN = Path(__file__).with_name("golden_learning.json")
STEPS, GROUPS, SIZE, LENGTH, SMALL = 10, 4, 8, 8, 40
CLOSE = 2e-3
"""Relative: another machine's float32 differs in the seventh digit, which ten steps make larger."""
ALGORITHMS = {
    "grpo": Algorithm(minibatches=2),
    "dapo": Algorithm(
        advantage="grpo", clip_high=0.28, overlong=Overlong(limit=LENGTH, buffer=2, penalty=0.1), epochs=2
    ),
    "gspo, decoupled": Algorithm(
        advantage="rloo",
        loss="gspo",
        ratio_to="proximal",
        importance=Correction(correction="truncate", level="sequence"),
        entropy=0.01,
    ),
}


def sampled(model, prompts, generator):
    """Return tokens [rollouts, LENGTH] and their logprobs, drawn from the model."""
    ids, logprobs = torch.tensor(prompts), []
    with torch.inference_mode():
        for _ in range(LENGTH):
            rows = torch.log_softmax(model(ids).logits[:, -1], -1)
            tokens = torch.multinomial(rows.exp(), 1, generator=generator)
            ids = torch.cat([ids, tokens], 1)
            logprobs.append(rows.gather(1, tokens))
    return ids[:, -LENGTH:].tolist(), torch.cat(logprobs, 1).tolist()


def rollout(name, version, prompt, completion, logprobs):
    """One call whose reward is the share of small tokens in it."""
    start, ids = len(prompt), [*prompt, *completion]
    mask = [0] * start + [1] * LENGTH
    laid = Sequence(
        ids=Int32s(ids),
        loss_mask=Int32s(mask),
        logprobs=Float32s([0.0] * start + logprobs),
        weight_versions=Int32s([version if flag else -1 for flag in mask]),
        temperatures=Float32s([1.0] * len(ids)),
        calls=[name],
        turns=[Turn(call=name, start=start, end=len(ids), finish_reason="stop", altered=[])],
    )
    total = Reward(name="total", value=sum(token < SMALL for token in completion) / LENGTH)
    return Trajectory(
        session=name, rollout=0, status="completed", reason="", rewards=[total], sequences=[laid], drift=[]
    )


def rolled_out(folder, step, generator, chance):
    """Return a step's groups, sampled with the weights in `folder`."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts = [[chance.randrange(97) for _ in range(4)] for _ in range(GROUPS)]
    drawn = sampled(model, [prompt for prompt in prompts for _ in range(SIZE)], generator)
    columns = list(zip(*drawn, strict=True))
    groups = []
    for place, prompt in enumerate(prompts):
        rollouts = [
            rollout(f"{step}-{place}-{index}", step, prompt, *columns[place * SIZE + index]) for index in range(SIZE)
        ]
        group = Group(id=f"{step}-{place}", run="golden", task=Task(id="t", fields={}), size=SIZE)
        groups.append(TrainingGroup(group=group, trajectories=rollouts))
    return groups


async def curve(folder, name, seed):
    """Return what each step measured."""
    recipe = Recipe(
        name="golden",
        steps=STEPS,
        model=Model(path=str(folder)),
        tasks=Tasks(train="none"),
        agent=Agent(command=["none"]),
        reward="none",
        rollouts=Rollouts(),
        algorithm=ALGORITHMS[name],
        train=Train(device="cpu", learning_rate=1e-2),
    )
    policy, generator, chance = InProcess(folder), torch.Generator().manual_seed(seed), random.Random(seed)
    lines = []
    with tempfile.TemporaryDirectory() as published:
        for step in range(STEPS):
            policy.backend.publish_weights(Path(published))
            groups = rolled_out(published, step, generator, chance)
            selection = await choose(groups, recipe.algorithm, step, Scorers())
            learned = await learn(policy, selection.datums, recipe, step)
            lines.append({"reward": sum(selection.rewards) / len(selection.rewards), **learned[-1]})
    return lines


def curves(folder):
    torch.set_num_threads(1)
    return {name: asyncio.run(curve(folder, name, seed)) for seed, name in enumerate(ALGORITHMS)}


@pytest.fixture(scope="module")
def now(tmp_path_factory):
    return curves(make_model(tmp_path_factory.mktemp("golden") / "model"))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_is_learned_step_by_step_is_what_was_recorded(now, name):
    recorded = json.loads(GOLDEN.read_text())[name]
    moved = [
        f"{metric} of step {step}: {now_[metric]!r}, recorded {before[metric]!r}"
        for step, (before, now_) in enumerate(zip(recorded, now[name], strict=True))
        for metric in before
        if now_[metric] != pytest.approx(before[metric], rel=CLOSE, abs=1e-5)
    ]
    assert not moved, "\n".join(moved[:12])
    assert [line.keys() for line in now[name]] == [line.keys() for line in recorded]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_recorded_curves_are_curves_of_learning(name):
    rewards = [line["reward"] for line in json.loads(GOLDEN.read_text())[name]]
    assert min(rewards[-2:]) > max(rewards[:2]) + 0.1


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        rounded = json.dumps(curves(make_model(Path(name))), indent=1)
    GOLDEN.write_text(rounded + "\n")
