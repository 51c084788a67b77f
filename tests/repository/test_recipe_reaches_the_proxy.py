"""What a recipe says about sampling is what the proxy puts in force: the two rooms share no code, only the flag."""

import msgspec
import pytest

from nexrl_proxy.policy import NAMES, policy_of
from nexrl_trainer.recipe.tree import Sampling, SamplingPolicy, SamplingRule
from nexrl_trainer.services.commands import sampling_policy


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
