"""Chains and sequences: worked examples, and the rule that every sampled token is trained exactly once."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_world import call

from nexrl.records import Call, Float32s, Int32s, Outcome, Reward, Sequence, Turn
from nexrl_ingest.assembly.sequences import chains, drift, prompt_lengths, sequences, trajectory


def test_a_growing_conversation_is_one_sequence():
    first = call([1, 2], [4])
    second = call([8], [5, 6], parent=first.id, weight_versions=Int32s([3, 4]), temperature=0.5)
    assert sequences([second, first]) == [
        #        P  P  C  E  C  C
        Sequence(
            ids=Int32s([1, 2, 4, 8, 5, 6]),
            loss_mask=Int32s([0, 0, 1, 0, 1, 1]),
            logprobs=Float32s([0, 0, -0.125, 0, -0.125, -0.25]),
            weight_versions=Int32s([-1, -1, 3, -1, 3, 4]),
            temperatures=Float32s([1, 1, 1, 1, 0.5, 0.5]),
            calls=[first.id, second.id],
            turns=[Turn(call=first.id, start=2, end=3), Turn(call=second.id, start=4, end=6)],
        )
    ]


def test_a_sequence_says_of_each_call_how_it_ended_and_what_changed_its_distribution():
    asked = {"temperature": 0.7, "top_p": 0.9, "presence_penalty": 0.5}
    cut = call([1], [2, 3], finish_reason="length", sampling=asked)
    [sequence] = sequences([cut])
    assert sequence.turns == [Turn(call=cut.id, start=1, end=3, finish_reason="length", altered=["presence_penalty"])]


def test_of_two_calls_with_one_parent_the_first_continues_and_the_other_repeats_the_past_untrained():
    root = call([1], [2])
    early, late = call([3], [4], parent=root.id), call([5], [6], parent=root.id, agent="critic")
    trunk, branch = sequences([late, early, root])
    assert (list(trunk.ids), list(trunk.loss_mask)) == ([1, 2, 3, 4], [0, 1, 0, 1])
    assert (list(branch.ids), list(branch.loss_mask)) == ([1, 2, 5, 6], [0, 0, 0, 1])
    assert (branch.calls, branch.agent, trunk.agent) == ([late.id], "critic", None)
    assert [[item.id for item in chain] for chain in chains([late, early, root])] == [[root.id, early.id], [late.id]]


def test_a_retry_after_a_call_that_sampled_nothing_continues_the_chain():
    root = call([1], [2])
    cancelled = call([3], [], parent=root.id, finish_reason="abort")
    retry = call([3], [4], parent=root.id)
    [sequence] = sequences([root, cancelled, retry])
    assert (list(sequence.ids), sequence.calls) == ([1, 2, 3, 4], [root.id, retry.id])


def test_an_empty_call_that_others_extend_stays_in_their_context():
    root = call([1, 2], [])
    [sequence] = sequences([root, call([3], [4], parent=root.id)])
    assert (list(sequence.ids), list(sequence.loss_mask)) == ([1, 2, 3, 4], [0, 0, 0, 1])
    assert sequences([call([1], [])]) == []


def test_what_was_sampled_before_an_abort_is_trained():
    [sequence] = sequences([call([1], [2, 3], finish_reason="abort")])
    assert list(sequence.loss_mask) == [0, 1, 1]


def test_greedy_tokens_are_context_and_say_so():
    greedy = call([1], [2], temperature=0.0)
    sampled = call([3], [4], parent=greedy.id)
    [sequence] = sequences([greedy, sampled])
    assert (list(sequence.loss_mask), list(sequence.weight_versions)) == ([0, 0, 0, 1], [-1, -1, -1, 3])
    assert [(item.call, item.reason) for item in drift([greedy, sampled])] == [(greedy.id, "greedy")]


def test_an_inexact_call_and_what_extends_it_are_left_out_with_a_reason():
    inexact = call([], [], exact=False)
    child = call([1], [2], parent=inexact.id)
    assert sequences([inexact, child]) == []
    assert [(item.call, item.reason) for item in drift([child, inexact])] == [
        (inexact.id, "inexact"),
        (child.id, "missing-parent"),
    ]


def test_what_a_lost_parent_leads_to_waits_for_it():
    root = call([1], [2])
    child = call([3], [4], parent=root.id, drift="edited")
    grandchild = call([5], [6], parent=child.id)
    assert sequences([child, grandchild]) == []
    assert {(item.call, item.reason) for item in drift([grandchild, child])} == {
        (child.id, "edited"),
        (child.id, "missing-parent"),
        (grandchild.id, "missing-parent"),
    }
    [sequence] = sequences([child, grandchild, root])
    assert list(sequence.ids) == [1, 2, 3, 4, 5, 6]
    assert prompt_lengths([grandchild, child, root]) == {root.id: 1, child.id: 3, grandchild.id: 5}
    assert prompt_lengths([grandchild, child]) == {}


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_cycle_of_parents_ends_and_is_reported(length):
    ids = [f"{index:016x}" for index in range(length)]
    cycle = [call([1], [2], id=id_, parent=ids[index - 1]) for index, id_ in enumerate(ids)]
    assert sequences(cycle) == []
    assert {item.call for item in drift(cycle) if item.reason == "missing-parent"} == set(ids)


def test_a_child_whose_clock_is_behind_its_parents_is_laid_out_after_it():
    root = call([1], [2], started_ns=100)
    branches = [call([3], [4], parent=root.id, started_ns=5), call([5], [6], parent=root.id, started_ns=6)]
    assert sorted(list(item.ids) for item in sequences([*branches, root])) == [[1, 2, 3, 4], [1, 2, 5, 6]]


def test_a_trajectory_carries_outcome_rewards_and_drift():
    given_rewards = [Reward(name="correct", value=1.0)]
    outcome = Outcome(status="failed", reason="agent: exit code 3")
    found = trajectory("session-1", 2, [call([1], [2], drift="template")], given_rewards, outcome)
    assert (found.session, found.rollout, found.status, found.reason) == ("session-1", 2, "failed", outcome.reason)
    assert (found.rewards, [item.reason for item in found.drift]) == (given_rewards, ["template"])
    assert trajectory("session-1", None, [], [], None).status == "open"


def test_ten_thousand_turns_are_laid_out_without_recursion_in_linear_time():
    turns: list[Call] = []
    for _ in range(10_000):
        turns.append(call([1], [2], parent=turns[-1].id if turns else None))
    started = time.process_time()
    [sequence] = sequences(turns)
    assert len(sequence.ids) == 20_000
    assert time.process_time() - started < 2


@st.composite
def forests(draw: st.DrawFn) -> list[Call]:
    """Random forests with every kind of call; each sampled token has an id of its own, so that it can be followed."""
    calls: list[Call] = []
    token = 1000
    for index in range(draw(st.integers(1, 14))):
        sampled = draw(st.integers(0, 4))
        parents = [item.id for item in calls] + [None, "f" * 16]
        calls.append(
            Call(
                id=f"{index:016x}",
                session="session-1",
                parent=draw(st.sampled_from(parents)),
                prompt_delta=Int32s(draw(st.lists(st.integers(0, 999), max_size=3))),
                completion=Int32s(range(token, token + sampled)),
                logprobs=Float32s(draw(st.lists(st.floats(-9, 0, width=32), min_size=sampled, max_size=sampled))),
                weight_versions=Int32s(draw(st.lists(st.integers(0, 5), min_size=sampled, max_size=sampled))),
                temperature=draw(st.sampled_from([0.0, 0.5, 1.0])),
                exact=draw(st.sampled_from([True, True, True, False])),
                finish_reason=draw(st.sampled_from(["stop", "length", "abort"])),
                started_ns=draw(st.integers(0, 5)),
            )
        )
        token += sampled
    return calls


def prompts(calls: list[Call]) -> dict[str, list[int]]:
    """Every call's whole prompt by the definition, for calls that have one."""
    by_id = {item.id: item for item in calls if item.exact}

    def prompt(item: Call) -> list[int] | None:
        if item.parent is None:
            return list(item.prompt_delta)
        parent = by_id.get(item.parent)
        before = prompt(parent) if parent else None
        return None if before is None or parent is None else [*before, *parent.completion, *item.prompt_delta]

    found = {item.id: prompt(item) for item in by_id.values()}
    return {id_: ids for id_, ids in found.items() if ids is not None}


@settings(deadline=None)
@given(forests(), st.randoms(use_true_random=False))
def test_every_sampled_token_is_trained_exactly_once_and_no_other_is(calls, random):
    whole = prompts(calls)
    expected = sorted(
        (token, logprob, version, item.temperature, tuple(whole[item.id] + list(item.completion)[:index]))
        for item in calls
        if item.temperature > 0 and item.id in whole
        for index, (token, logprob, version) in enumerate(
            zip(item.completion, item.logprobs, item.weight_versions, strict=True)
        )
    )
    arrived = calls + random.choices(calls, k=3)
    random.shuffle(arrived)
    laid = sequences(arrived)
    trained = sorted(
        (token, logprob, version, temperature, tuple(sequence.ids[:index]))
        for sequence in laid
        for index, (token, kept, logprob, version, temperature) in enumerate(
            zip(
                sequence.ids,
                sequence.loss_mask,
                sequence.logprobs,
                sequence.weight_versions,
                sequence.temperatures,
                strict=True,
            )
        )
        if kept
    )
    assert trained == expected
    assert laid == sequences(calls)
    left_out = {item.call for item in drift(calls) if item.reason in {"inexact", "missing-parent"}}
    assert left_out == {item.id for item in calls} - set(whole)
