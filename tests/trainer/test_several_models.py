"""Several models that learn in one run: what each samples trains it alone, and each is kept in a place of its own."""

import asyncio

import pytest
from msgspec import convert, structs
from test_batches import datum

from nexrl.errors import ConfigError
from nexrl.records import Float32s
from nexrl_trainer.algorithms.objective import Objective
from nexrl_trainer.batches.datums import weighed
from nexrl_trainer.engines.publishers import Publishers
from nexrl_trainer.policy.routed import Routed
from nexrl_trainer.policy.service import Optimizer, Step
from nexrl_trainer.recipe.tree import Recipe

OPTIMIZER = Optimizer(learning_rate=0.1, betas=(0.9, 0.99), weight_decay=0.0, grad_clip=1.0)
SMALLEST = {
    "name": "run",
    "steps": 1,
    "model": {"path": "m"},
    "policies": {"critic": {"path": "c"}},
    "tasks": {"train": "t.jsonl"},
    "agent": {"command": ["true"]},
    "reward": "r.py",
}


class Service:
    """Notes what it is asked; its logprobs are its number."""

    def __init__(self, number):
        self.number = number
        self.learned = []
        self.steps = 0

    async def forward(self, datums):
        return [Float32s([self.number] * len(item.ids)) for item in datums]

    async def forward_backward(self, datums, objective):
        self.learned += datums
        return {"tokens": float(sum(item.trained_tokens for item in datums)), "loss": 1.0, "gap_max": self.number}

    async def optim_step(self, optimizer):
        self.steps += 1
        return Step(grad_norm=self.number)

    def save(self, folder):
        (folder / "weights").write_text(str(self.number))
        return asyncio.sleep(0)

    async def load(self, folder):
        self.number = float((folder / "weights").read_text())


@pytest.fixture
def services():
    return {"": Service(1.0), "critic": Service(2.0)}


def of(policy, session, length):
    return structs.replace(datum(session, length), policy=policy)


MIXED = [of("critic", "a", 3), of("", "a", 4), of("critic", "b", 2)]


async def test_logprobs_come_from_the_model_that_sampled_and_in_the_order_of_the_datums(services):
    scored = await Routed(services).forward(MIXED)
    assert [list(column) for column in scored] == [[2.0] * 3, [1.0] * 4, [2.0] * 2]


async def test_each_learns_from_what_it_sampled_and_what_they_measured_is_put_together(services):
    sums = await Routed(services).forward_backward(MIXED, Objective())
    assert services[""].learned == [MIXED[1]]
    assert services["critic"].learned == [MIXED[0], MIXED[2]]
    assert sums == {"tokens": 6.0, "loss": 2.0, "gap_max": 2.0}


async def test_a_model_that_learnt_nothing_makes_no_step(services):
    routed = Routed(services)
    await routed.forward_backward(MIXED[1:2], Objective())
    assert (await routed.optim_step(OPTIMIZER)).grad_norm == 1.0
    await routed.forward_backward(MIXED, Objective())
    assert (await routed.optim_step(OPTIMIZER)).grad_norm == 2.0
    assert (services[""].steps, services["critic"].steps) == (2, 1)


async def test_a_checkpoint_has_the_first_model_at_its_top_and_the_others_below(services, tmp_path):
    await Routed(services).save(tmp_path)
    assert (tmp_path / "weights").read_text() == "1.0"
    assert (tmp_path / "policies/critic/weights").read_text() == "2.0"
    begun = {"": Service(0.0), "critic": Service(0.0)}
    await Routed(begun).load(tmp_path)
    assert [service.number for service in begun.values()] == [1.0, 2.0]


@pytest.mark.parametrize("normalisation", ["token", "sequence", "rollout"])
def test_a_token_counts_what_it_would_if_its_model_were_alone(normalisation):
    together = weighed(MIXED, normalisation)
    alone = [*weighed([MIXED[0], MIXED[2]], normalisation), *weighed([MIXED[1]], normalisation)]
    assert together == alone


async def test_all_models_are_published_as_the_same_version(services):
    told = []

    class Publisher:
        gave_way = False

        async def publish(self, service, version):
            told.append((service.number, version))

    await Publishers([(Publisher(), service) for service in services.values()]).publish(4)
    assert told == [(1.0, 4), (2.0, 4)]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"policies": {"run": {"path": "c"}}}, "`model` is called so, as the run is"),
        ({"policies": {"a/b": {"path": "c"}}}, "policies.a/b: a name has 1 to 60 letters"),
        ({"proxy": {"models": {"critic": {"url": "http://u"}}}}, "proxy.models.critic is another model"),
        ({"engine": {"kind": "sglang", "colocated": True}}, "engine.colocated is for one model"),
        ({"engine": {"kind": "sglang", "url": "http://e"}}, "name the engines of every model"),
        ({"policies": {"critic": {"path": "c", "url": "http://e"}}}, "name the engines of every model"),
        (
            {
                "engine": {"kind": "sglang", "url": "http://e"},
                "policies": {"critic": {"path": "c", "url": "http://e/"}},
            },
            "names an engine twice",
        ),
        ({"algorithm": {"kl": {"coefficient": 0.1, "reference": "r"}}}, "r, the algorithm's reference, can score"),
    ],
)
def test_what_several_models_cannot_do_is_refused(settings, complaint):
    with pytest.raises(Exception, match=complaint):
        convert(SMALLEST | settings, Recipe)


def test_a_reference_is_where_each_model_began():
    recipe = convert(SMALLEST | {"algorithm": {"kl": {"coefficient": 0.1}}}, Recipe)
    assert recipe.algorithm.scorers == {"reference": None}


def test_a_model_that_is_not_there_is_named_by_its_setting(tmp_path):
    for name in ("t.jsonl", "r.py"):
        (tmp_path / name).touch()
    (tmp_path / "m").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "m" / name).touch()
    recipe = convert(SMALLEST | {"folder": str(tmp_path)}, Recipe)
    with pytest.raises(ConfigError, match=r"policies\.critic\.path=c: no directory"):
        recipe.check_models()
