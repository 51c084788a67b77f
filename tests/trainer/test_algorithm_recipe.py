"""What of a recipe's algorithm goes together, and what objective follows from it."""

import msgspec
import pytest

from nexrl_trainer.algorithms.objective import Clip, Importance, Objective
from nexrl_trainer.recipe.algorithm import Algorithm


def algorithm(**settings):
    return msgspec.convert(settings, Algorithm)


def test_without_a_word_it_is_grpo_with_a_symmetric_clip_over_tokens():
    plain = algorithm()
    assert plain.objective == Objective(loss="ppo", ratio_to="behaviour", clip=Clip(low=0.2, high=0.2))
    assert (plain.advantage, plain.normalisation, plain.needs_proximal) == ("grpo", "token", False)


@pytest.mark.parametrize(
    ("loss", "low", "high", "normalisation"),
    [("ppo", 0.2, 0.2, "token"), ("gspo", 3e-4, 4e-4, "sequence"), ("cispo", 0.2, 4.0, "token")],
)
def test_each_loss_has_bounds_and_a_normalisation_of_its_own(loss, low, high, normalisation):
    found = algorithm(loss=loss)
    assert (found.objective.clip, found.normalisation) == (Clip(low=low, high=high), normalisation)


def test_what_is_set_reaches_the_objective():
    found = algorithm(
        clip_high=0.28,
        dual_clip=3.0,
        entropy=0.01,
        ratio_to="proximal",
        kl={"coefficient": 0.05, "estimator": "k2", "unbiased": True},
        importance={"correction": "mask", "level": "sequence", "high": 3.0},
    )
    assert found.objective == Objective(
        ratio_to="proximal",
        clip=Clip(low=0.2, high=0.28, dual=3.0),
        kl=0.05,
        estimator="k2",
        unbiased_kl=True,
        entropy=0.01,
        importance=Importance(correction="mask", level="sequence", low=0.5, high=3.0),
    )


def test_a_kl_in_the_reward_is_not_in_the_loss_too():
    assert algorithm(kl={"coefficient": 0.05, "place": "reward"}).objective.kl == 0


@pytest.mark.parametrize(("minibatches", "needed"), [(1, False), (2, True)])
def test_proximal_logprobs_are_kept_only_where_later_updates_would_lose_them(minibatches, needed):
    assert algorithm(ratio_to="proximal", minibatches=minibatches).needs_proximal is needed


def test_an_objective_travels_as_data():
    objective = algorithm(loss="sapo", importance={"correction": "truncate"}, ratio_to="proximal").objective
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(objective), type=Objective) == objective


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "ppg"}, "ppg"),
        ({"loss": "sapo", "clip_high": 0.3}, "clip_high=0.3: loss sapo has no such bound.*ppo, gspo, cispo"),
        ({"loss": "cispo", "clip_low": 0.3}, "clip_low=0.3: loss cispo"),
        ({"temper_positive": 2.0}, "temper_positive=2.0: loss ppo.*sapo"),
        ({"loss": "reinforce", "ratio_to": "proximal"}, "ratio_to=proximal: loss reinforce has no ratio"),
        ({"importance": {"correction": "truncate"}}, "corrects already.*ratio_to: proximal"),
        ({"importance": {"level": "sequence"}}, "described but not used"),
        ({"importance": {"correction": "truncate", "low": 0.1}}, "truncate has no lower bound"),
        ({"importance": {"correction": "mask", "low": 6.0}}, "low=6.0 is not below importance.high=5.0"),
        ({"kl": {"place": "reward"}}, "set algorithm.kl.coefficient"),
        ({"kl": {"coefficient": 0.1, "estimator": "k1"}}, "k1.*zero on average"),
        ({"kl": {"coefficient": 0.1, "place": "reward", "estimator": "k3"}}, "k3.*use k1"),
        ({"kl": {"coefficient": 0.1, "place": "reward", "unbiased": True}}, "unbiased as it is"),
        ({"loss": "gspo", "normalise": "token"}, "normalise=token: gspo"),
        ({"normalise": "constant"}, "constant needs constant_length"),
        ({"constant_length": 100}, "nothing else has one"),
        ({"advantage": "best"}, "loss cross_entropy together"),
        ({"loss": "cross_entropy"}, "advantage best"),
        (
            {"loss": "cross_entropy", "advantage": "best", "importance": {"correction": "mask"}},
            "cross_entropy imitates",
        ),
        ({"advantage": "distillation"}, "needs a teacher"),
        ({"teacher": "model"}, "nothing else has one"),
        ({"advantage": "distillation", "teacher": "m", "overlong": {"limit": 9, "buffer": 3}}, "reads no reward"),
        ({"advantage": "distillation", "teacher": "m", "loss": "gspo"}, "differ within a sequence"),
        ({"call_rewards": {"names": ["tool"]}, "loss": "gspo"}, "differ within a sequence"),
        ({"call_rewards": {"names": ["tool"]}, "advantage": "reinforce_pp"}, "no baseline for calls"),
        ({"call_rewards": {"discount": 0.5}}, "set call_rewards.names"),
        ({"overlong": {"limit": 9}}, "give both"),
        ({"overlong": {"limit": 9, "buffer": 10}}, "the buffer the smaller"),
        ({"filters": {"stale": "token"}}, "set filters.staleness"),
        ({"kl": {"coefficent": 0.1}}, "coefficent"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(settings, message):
    with pytest.raises(msgspec.ValidationError, match=message):
        algorithm(**settings)
