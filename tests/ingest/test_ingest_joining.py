"""Calls without a named parent: joined to what their prompts begin with, whatever the order of arrival."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_world import call

from nexrl.records import Call, Float32s, Int32s
from nexrl_ingest.assembly import joining
from nexrl_ingest.assembly.sequences import drift, extended, parents_first, sequences


def laid(calls) -> list[tuple[list[int], list[int]]]:
    return [(list(one.ids), list(one.loss_mask)) for one in sequences(calls)]


def test_a_prompt_that_begins_with_a_calls_tokens_extends_it():
    first = call([1, 2], [3])
    second = call([1, 2, 3, 4], [5])
    third = call([1, 2, 3, 4, 5, 6], [7])
    assert laid([third, first, second]) == [([1, 2, 3, 4, 5, 6, 7], [0, 0, 1, 0, 1, 0, 1])]
    assert extended([first, second, third]) == {second.id: first.id, third.id: second.id}


def test_the_longest_prefix_wins_and_a_rewritten_history_opens_a_new_chain():
    root = call([1], [2])
    long = call([3], [4], parent=root.id)
    onto_long, onto_root = call([1, 2, 3, 4, 9], [5]), call([1, 2, 9], [6])
    rewritten = call([1, 7, 3, 4], [8])
    assert extended([root, long, onto_long, onto_root, rewritten]) == {
        long.id: root.id,
        onto_long.id: long.id,
        onto_root.id: root.id,
    }
    assert laid([root, long, onto_long, onto_root, rewritten]) == [
        ([1, 2, 3, 4, 9, 5], [0, 1, 0, 1, 0, 1]),
        ([1, 2, 9, 6], [0, 0, 0, 1]),
        ([1, 7, 3, 4, 8], [0, 0, 0, 0, 1]),
    ]


def test_of_two_calls_with_the_same_tokens_the_earliest_is_extended():
    late, early = call([1], [2], started_ns=9), call([1], [2], started_ns=4)
    after = call([1, 2], [3])
    assert extended([late, early, after]) == {after.id: early.id}


def test_a_named_parent_that_is_late_is_waited_for_and_then_joined_by_name():
    root = call([1], [2])
    child = call([3], [4], parent="9" * 16)
    assert laid([root, child]) == [([1, 2], [0, 1])]
    assert [(item.call, item.reason) for item in drift([root, child])] == [(child.id, "missing-parent")]
    parent = call([1, 2, 8], [9], id="9" * 16)
    assert laid([child, root, parent]) == [([1, 2, 8, 9, 3, 4], [0, 1, 0, 1, 0, 1])]


def test_a_call_that_sampled_nothing_is_extended_by_name_alone():
    cancelled = call([1, 2], [], finish_reason="abort")
    retry = call([1, 2], [3])
    assert extended([cancelled, retry]) == {}
    assert laid([cancelled, retry]) == [([1, 2, 3], [0, 0, 1])]


def test_what_the_proxy_reads_back_is_what_it_recorded():
    first, second = call([1], [2]), call([1, 2, 3], [4])
    assert parents_first([second, first]) == [first, second]


def test_two_contents_under_one_id_come_out_the_same_in_either_order():
    one, other = call([1], [2], id="a" * 16, started_ns=5), call([1], [3], id="a" * 16, started_ns=5)
    assert sequences([one, other]) == sequences([other, one])


def test_what_two_models_said_in_the_same_tokens_is_no_conversation_of_either():
    mine, theirs = call([1, 2], [3]), call([1, 2], [3], policy="critic")
    after = call([1, 2, 3, 4], [5], policy="critic")
    assert extended([mine, theirs, after]) == {after.id: theirs.id}
    assert [(one.policy, list(one.ids)) for one in sequences([mine, theirs, after])] == [
        ("", [1, 2, 3]),
        ("critic", [1, 2, 3, 4, 5]),
    ]


@st.composite
def conversations(draw: st.DrawFn) -> list[Call]:
    """Calls with whole prompts, few different tokens, so that prefixes collide often; parents named at will."""
    token = st.integers(0, 1)
    ends: list[tuple[str, list[int]]] = []
    calls: list[Call] = []
    for index in range(draw(st.integers(1, 9))):
        parent, before = draw(st.sampled_from([*ends, (None, [])]))
        named = draw(st.booleans()) and parent is not None
        delta = draw(st.lists(token, max_size=3))
        sampled = draw(st.lists(token, max_size=3))
        made = Call(
            id=f"{index:016x}",
            session="session-1",
            parent=parent if named else None,
            prompt_delta=Int32s(delta if named else [*before, *delta]),
            completion=Int32s(sampled),
            logprobs=Float32s([-(index + 1)] * len(sampled)),
            weight_versions=Int32s([index] * len(sampled)),
            started_ns=draw(st.integers(0, 3)),
        )
        calls.append(made)
        ends.append((made.id, [*before, *delta, *sampled]))
    return calls


def whole(calls: list[Call]) -> dict[str, tuple[list[int], list[int]]]:
    """Every call's prompt and end, by the definition."""
    by_id = {one.id: one for one in calls}

    def prompt(one: Call) -> list[int]:
        return [*(end(by_id[one.parent]) if one.parent else []), *one.prompt_delta]

    def end(one: Call) -> list[int]:
        return [*prompt(one), *one.completion]

    return {one.id: (prompt(one), end(one)) for one in calls}


@settings(deadline=None)
@given(conversations(), st.randoms(use_true_random=False))
def test_any_order_duplication_splitting_and_delay_gives_the_same_trajectory(calls, random):
    arrived = calls + random.choices(calls, k=3)
    random.shuffle(arrived)
    cut = random.randrange(len(arrived) + 1)
    sequences(arrived[:cut])
    assert sequences(arrived) == sequences(calls)
    assert drift(arrived) == drift(calls)
    assert extended(arrived) == extended(calls)


@settings(deadline=None)
@given(conversations())
def test_every_head_extends_the_longest_call_its_prompt_begins_with_and_every_token_is_trained_once(calls):
    tokens = whole(calls)
    found = extended(calls)
    for one in (one for one in calls if one.parent is None):
        prompt = tokens[one.id][0]
        ends = [tokens[other.id][1] for other in calls if other.completion and other.id != one.id]
        fitting = [end for end in ends if prompt[: len(end)] == end]
        joined_to = tokens[found[one.id]][1] if one.id in found else []
        assert joined_to == max(fitting, key=len, default=[])
    trained = sorted(
        (version, token, tuple(one.ids[:place]))
        for one in sequences(calls)
        for place, (token, kept, version) in enumerate(zip(one.ids, one.loss_mask, one.weight_versions, strict=True))
        if kept
    )
    expected = sorted(
        (version, token, (*tokens[one.id][0], *one.completion[:place]))
        for one in calls
        for place, (token, version) in enumerate(zip(one.completion, one.weight_versions, strict=True))
    )
    assert trained == expected


class Work:
    """A digest that counts what is done with it."""

    bytes_read = digests = 0

    def __init__(self, inner) -> None:
        self.inner = inner

    def update(self, data) -> None:
        Work.bytes_read += len(data)
        self.inner.update(data)

    def digest(self) -> bytes:
        Work.digests += 1
        return self.inner.digest()

    def copy(self) -> "Work":
        return Work(self.inner.copy())


@pytest.mark.parametrize("turns", [40, 400])
def test_joining_is_linear_in_the_tokens_that_were_sent(monkeypatch, turns):
    digest = joining.blake2b
    monkeypatch.setattr(joining, "blake2b", lambda *begun, **options: Work(digest(*begun, **options)))
    calls, tokens = [], 0
    history: list[int] = []
    for turn in range(turns):
        calls.append(call([*history, turn], [turn, turn]))
        tokens += len(history) + 3
        history += [turn, turn, turn]
    Work.bytes_read = Work.digests = 0
    [sequence] = sequences(calls)
    assert len(sequence.ids) == 3 * turns
    assert Work.bytes_read <= 3 * 4 * tokens
    assert Work.digests <= tokens


def test_assembly_of_named_chains_reads_no_prompt_twice(monkeypatch):
    monkeypatch.setattr(joining, "blake2b", None)
    calls: list[Call] = []
    for _ in range(500):
        calls.append(call([1], [2], parent=calls[-1].id if calls else None))
    assert len(sequences(calls)[0].ids) == 1000
