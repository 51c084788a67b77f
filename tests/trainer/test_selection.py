"""What is trained, what each token of it is worth, and what was left out."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trajectories import group, sequence, trajectory

from nexrl.records import Float32s, Int32s, Reward
from nexrl_trainer.batches.filters import trained_mask
from nexrl_trainer.batches.scoring import Scorers, choose
from nexrl_trainer.batches.selection import lay_out, select
from nexrl_trainer.recipe.algorithm import Algorithm, CallRewards, Filters, Kl, Overlong

DR_GRPO = Algorithm(advantage="dr_grpo")


def chosen(*groups, algorithm=DR_GRPO, version=3):
    return select(lay_out(groups, algorithm, version), algorithm)


def worth(selection):
    return [(datum.session, list(datum.advantages)) for datum in selection.datums]


class Scorer:
    """A policy whose logprob is `value` for every trained token, -9 elsewhere."""

    def __init__(self, value):
        self.value = value

    async def forward(self, datums):
        return [Float32s(self.value if flag else -9.0 for flag in datum.loss_mask) for datum in datums]


def test_every_sequence_of_a_rollout_carries_the_rollouts_advantage_on_its_trained_tokens_only():
    found = chosen(group(trajectory("a", 1.0, sequence(), sequence()), trajectory("b", 0.0)))
    assert worth(found) == [("a", [0, 0, 0.5, 0.5]), ("a", [0, 0, 0.5, 0.5]), ("b", [0, 0, -0.5, -0.5])]


def test_the_baseline_counts_rollouts_and_not_their_sequences():
    many = trajectory("a", 1.0, *[sequence()] * 7)
    found = chosen(group(many, trajectory("b", 0.0), trajectory("c", 0.0)), algorithm=Algorithm(advantage="rloo"))
    assert {session: values[-1] for session, values in worth(found)} == {"a": 1.0, "b": -0.5, "c": -0.5}


def test_a_failed_rollout_is_neither_baseline_nor_data():
    found = chosen(group(trajectory("a", 1.0), trajectory("b", 0.0), trajectory("x", 0, status="failed")))
    assert {datum.session for datum in found.datums} == {"a", "b"}
    assert (found.rewards, found.failed, found.reward_spread) == ([1.0, 0.0], 1, 0.5)


def test_a_group_whose_rewards_are_all_equal_is_left_out_and_counted():
    same = group(trajectory("a", 1.0), trajectory("b", 1.0))
    found = chosen(same, algorithm=Algorithm())
    assert (found.datums, found.without_contrast, found.rewards) == ([], 1, [1.0, 1.0])


def test_where_the_batch_is_the_baseline_a_group_of_equal_rewards_still_teaches():
    good, bad = group(trajectory("a", 1.0), trajectory("b", 1.0)), group(trajectory("c", 0.0), trajectory("d", 0.0))
    found = chosen(good, bad, algorithm=Algorithm(advantage="reinforce_pp"))
    assert [values[-1] for _, values in worth(found)] == pytest.approx([1, 1, -1, -1], abs=1e-5)


def test_only_the_best_rollouts_are_imitated():
    imitation = Algorithm(advantage="best", loss="cross_entropy")
    found = chosen(group(trajectory("a", 1.0), trajectory("b", 0.0), trajectory("c", 1.0)), algorithm=imitation)
    assert worth(found) == [("a", [0, 0, 1, 1]), ("c", [0, 0, 1, 1])]


def test_an_agent_cannot_set_the_reward_it_is_trained_on():
    greedy = trajectory("a", 0.0, rewards=[Reward(name="total", value=1000.0, by="agent")])
    assert chosen(group(greedy, trajectory("b", 1.0))).rewards == [0.0, 1.0]


def test_a_calls_reward_reaches_its_tokens_and_discounted_those_of_earlier_calls_of_its_chain():
    judged = [
        Reward(name="tool", value=1.0, call="second", by="judge"),
        Reward(name="tool", value=-1.0, call="first", by="judge"),
        Reward(name="tool", value=50.0, call="first", by="agent"),
        Reward(name="other", value=50.0, call="first", by="judge"),
    ]
    algorithm = Algorithm(advantage="dr_grpo", call_rewards=CallRewards(names=["tool"], discount=0.5))
    two_turns = trajectory("a", 0.0, sequence(turns=2, calls=["first", "second"]), rewards=judged)
    found = chosen(group(two_turns, trajectory("b", 0.0)), algorithm=algorithm)
    # Mean of the judged calls is 0: the second gets 1, the first -1 + 0.5; the rollouts' own rewards are equal.
    assert worth(found) == [("a", [0, 0, -0.5, -0.5, 0, 1, 1]), ("b", [0, 0, 0, 0])]


def test_of_a_call_judged_twice_the_latest_word_counts():
    judged = [
        Reward(name="tool", value=1.0, call="c0", by="judge", at_ns=20),
        Reward(name="tool", value=7.0, call="c0", by="judge", at_ns=10),
    ]
    algorithm = Algorithm(advantage="dr_grpo", call_rewards=CallRewards(names=["tool"]))
    [[item]] = lay_out([group(trajectory("a", 0.0, rewards=judged))], algorithm, 3).groups
    assert item.call_rewards == {"c0": 1.0}


def test_a_long_rollout_is_punished_in_what_it_is_worth_and_not_in_the_reward_that_is_shown():
    algorithm = Algorithm(advantage="dr_grpo", overlong=Overlong(limit=4, buffer=2, penalty=0.5))
    # 3 sampled tokens lie half way into the buffer, 2 before it
    found = chosen(group(trajectory("a", 1.0, sequence(trained=3)), trajectory("b", 1.0)), algorithm=algorithm)
    assert [(session, values[-1]) for session, values in worth(found)] == [("a", -0.125), ("b", 0.125)]
    assert (found.rewards, found.counts["overlong"]) == ([1.0, 1.0], 1)


def test_a_truncated_rollout_can_stay_in_the_baseline_without_being_trained():
    cut = trajectory("a", 0.0, sequence(), sequence(finish_reason="length"))
    groups = [group(cut, trajectory("b", 1.0))]
    assert chosen(*groups).counts | {"truncated": 1} == chosen(*groups).counts
    masked = chosen(*groups, algorithm=Algorithm(advantage="dr_grpo", filters=Filters(truncated="mask")))
    assert worth(masked) == [("b", [0, 0, 0.5, 0.5])]
    assert (masked.counts["truncated"], masked.counts["truncated_tokens"]) == (1, 4)


def test_calls_whose_distribution_the_engine_altered_are_not_trained_unless_the_recipe_says_so():
    item = sequence(altered=["presence_penalty"])
    mask, counts = trained_mask(item, Filters(), 3)
    assert (list(mask), counts["altered_tokens"]) == ([0, 0, 0, 0], 2)
    assert list(trained_mask(item, Filters(altered="train"), 3)[0]) == [0, 0, 1, 1]


@pytest.mark.parametrize(("unit", "kept"), [("token", [0, 0, 0, 1]), ("sequence", [0, 0, 0, 0])])
def test_stale_tokens_are_left_out_alone_or_with_their_sequence(unit, kept):
    item = msgspec.structs.replace(sequence(), weight_versions=Int32s([-1, -1, 1, 2]))
    mask, counts = trained_mask(item, Filters(staleness=1, stale=unit), 3)
    assert (list(mask), counts["stale_tokens"]) == (kept, 2 - sum(kept))
    assert list(trained_mask(item, Filters(staleness=2, stale=unit), 3)[0]) == [0, 0, 1, 1]


@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from([(), ("logit_bias",)]),
    st.lists(st.integers(0, 5), min_size=25, max_size=25),
    st.integers(0, 5),
    st.sampled_from(["token", "sequence"]),
)
def test_every_sampled_token_is_trained_or_counted_once_and_no_other_is(turns, trained, altered, versions, cap, unit):
    item = sequence(turns=turns, trained=trained, altered=altered)
    sampled = zip(item.loss_mask, versions, strict=False)
    item = msgspec.structs.replace(item, weight_versions=Int32s(v if flag else -1 for flag, v in sampled))
    mask, counts = trained_mask(item, Filters(staleness=cap, stale=unit), 5)
    assert sum(mask) + counts.total() == sum(item.loss_mask)
    assert all(flag <= before for flag, before in zip(mask, item.loss_mask, strict=True))
    assert all(5 - version <= cap for flag, version in zip(mask, item.weight_versions, strict=True) if flag)


async def test_the_kl_in_the_reward_is_taken_off_what_a_rollout_is_worth():
    algorithm = Algorithm(advantage="dr_grpo", kl=Kl(coefficient=0.1, place="reward"))
    groups = [group(trajectory("a", 1.0, sequence(trained=4)), trajectory("b", 0.0))]
    # behaviour -0.5, reference -1.5: 1 nat a token, 4 and 2 tokens: 1 - 0.4 against 0 - 0.2
    found = await choose(groups, algorithm, 3, Scorers(reference=Scorer(-1.5)))
    assert [values[-1] for _, values in worth(found)] == pytest.approx([0.4, -0.4])
    assert (found.rewards, found.datums[0].reference) == ([1.0, 0.0], None)


async def test_the_kl_in_the_loss_brings_reference_logprobs_to_every_datum():
    algorithm = Algorithm(kl=Kl(coefficient=0.1))
    groups = [group(trajectory("a", 1.0), trajectory("b", 0.0))]
    found = await choose(groups, algorithm, 3, Scorers(reference=Scorer(-1.5)))
    assert [list(datum.reference) for datum in found.datums] == [[-9, -9, -1.5, -1.5]] * 2


async def test_distillation_makes_the_teachers_lead_the_advantage_whatever_the_rewards():
    algorithm = Algorithm(advantage="distillation", loss="reinforce", teacher="elsewhere")
    groups = [group(trajectory("a", 1.0), trajectory("b", 1.0))]
    found = await choose(groups, algorithm, 3, Scorers(teacher=Scorer(-0.25)))
    assert worth(found) == [("a", [0, 0, 0.25, 0.25]), ("b", [0, 0, 0.25, 0.25])]
    assert list(found.datums[0].teacher) == [-9, -9, -0.25, -0.25]


async def test_no_other_policy_is_asked_where_the_recipe_has_no_use_for_one():
    found = await choose([group(trajectory("a", 1.0), trajectory("b", 0.0))], DR_GRPO, 3, Scorers())
    assert len(found.datums) == 2
