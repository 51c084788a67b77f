"""Sub-agents: what some of them sampled is trained and what others did is not, and each is worth its own reward."""

import pytest
from msgspec import structs
from trajectories import group, sequence, trajectory

from nexrl.records import Call, Float32s, Int32s, Reward
from nexrl_ingest.assembly.sequences import sequences
from nexrl_trainer.batches.datums import weighed
from nexrl_trainer.batches.selection import lay_out, select
from nexrl_trainer.recipe.algorithm import Algorithm, CallRewards, Filters


def call(id_, parent, agent):
    sampled = {"completion": Int32s([2, 3]), "logprobs": Float32s([-1, -2]), "weight_versions": Int32s([0, 0])}
    return Call(id=id_, session="s", parent=parent, prompt_delta=Int32s([1]), agent=agent, **sampled)


@pytest.mark.parametrize(
    ("filters", "trained"),
    [
        (Filters(), [1, 1, 1, 1, 1, 1]),
        (Filters(agents=["planner"]), [1, 1, 0, 0, 0, 0]),
        (Filters(agents=["planner", ""]), [1, 1, 0, 0, 1, 1]),
        (Filters(frozen_agents=["planner"]), [0, 0, 1, 1, 1, 1]),
    ],
)
def test_a_call_is_trained_by_the_name_of_its_agent_also_where_another_goes_on_from_it(filters, trained):
    #                      P C C E C C E C C
    [laid] = sequences([call("a", None, "planner"), call("b", "a", "critic"), call("c", "b", None)])
    candidates = lay_out([group(trajectory("s", 1.0, laid))], Algorithm(filters=filters), 0)
    [datum] = candidates.datums
    assert [flag for index, flag in enumerate(datum.loss_mask) if laid.loss_mask[index]] == trained
    assert candidates.counts["other_agents_tokens"] == 6 - sum(trained)


def of(agent, **fields):
    laid = sequence(**fields)
    return structs.replace(laid, agent=agent, turns=[structs.replace(turn, agent=agent) for turn in laid.turns])


def test_what_is_not_trained_is_no_part_of_the_normalisation():
    rollouts = [
        trajectory(name, reward, of("planner"), of("critic", trained=50)) for name, reward in (("a", 1), ("b", 0))
    ]
    algorithm = Algorithm(filters=Filters(agents=["planner"]))
    datums = weighed(select(lay_out([group(*rollouts)], algorithm, 0), algorithm).datums, "token")
    assert [datum.session for datum in datums] == ["a", "b"]
    assert [set(datum.weights) for datum in datums] == [{0.0, 0.25}] * 2


def test_a_reward_of_a_sub_agents_last_call_reaches_its_chain_and_no_other():
    def rollout(name, planner, critic):
        given = [
            Reward(name="by_agent", value=value, call=f"{name}-{who}1")
            for who, value in (("p", planner), ("c", critic))
        ]
        chains = [
            of(who, turns=2, calls=[f"{name}-{who[0]}{turn}" for turn in range(2)]) for who in ("planner", "critic")
        ]
        return trajectory(name, 0.5, *chains, rewards=given)

    algorithm = Algorithm(advantage="dr_grpo", call_rewards=CallRewards(names=["by_agent"]))
    groups = [group(rollout("a", planner=1.0, critic=0.0), rollout("b", planner=1.0, critic=1.0))]
    datums = select(lay_out(groups, algorithm, 0), algorithm).datums
    worth = [
        {round(value, 2) for value, flag in zip(item.advantages, item.loss_mask, strict=True) if flag}
        for item in datums
    ]
    # The mean of 1 0 1 1 is 3/4; both turns of a chain get what its last call was worth.
    assert worth == [{0.25}, {-0.75}, {0.25}, {0.25}]


@pytest.mark.parametrize("settings", [{"agents": ["a"], "frozen_agents": ["b"]}, {"agents": []}])
def test_agents_that_are_named_twice_or_not_at_all_are_refused(settings):
    with pytest.raises(ValueError, match=r"filters\.agents="):
        Filters(**settings)
