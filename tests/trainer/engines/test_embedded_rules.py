"""The pure rules under the engine: drawing, stopping, placing, laying out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nexrl_trainer.engines.embedded.batch import neighbours
from nexrl_trainer.engines.embedded.placement import WORTH_WAITING, Placement, Slot, place, shared_prefix
from nexrl_trainer.engines.embedded.sampling import bar, sample
from nexrl_trainer.engines.embedded.stopping import finish_reason, stop_rule
from nexrl_trainer.engines.embedded.wire import SamplingParams

PROBABILITIES = [0.1, 0.4, 0.0, 0.2, 0.3]
logits = st.lists(st.floats(-30, 30, width=32), min_size=5, max_size=5)
parameters = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.sampled_from([-1, 1, 2, 5, 9]),
    top_p=st.sampled_from([0.01, 0.5, 0.99, 1.0]),
    min_p=st.sampled_from([0.0, 0.1, 1.0]),
)
uniforms = st.floats(0, 1, exclude_max=True)
tokens = st.lists(st.integers(0, 2), max_size=6)


def draw_evenly(**params):
    """Draw 1000 tokens with uniform numbers that are evenly spread."""
    rows = torch.tensor([PROBABILITIES]).log().expand(1000, -1)
    ids, _ = sample(rows, 1000 * [SamplingParams(**params)], [(step + 0.5) / 1000 for step in range(1000)])
    return ids.tolist()


@pytest.mark.parametrize(
    ("params", "possible"),
    [
        ({}, {0, 1, 3, 4}),
        ({"temperature": 0}, {1}),
        ({"top_k": 2}, {1, 4}),
        ({"top_p": 0.5}, {1, 4}),  # the token that crosses the line is kept
        ({"top_p": 0.3}, {1}),
        ({"min_p": 0.5}, {1, 3, 4}),
        ({"top_k": 3, "top_p": 0.5, "min_p": 0.5}, {1, 4}),
    ],
)
def test_the_restrictions_leave_the_tokens_they_promise(params, possible):
    assert set(draw_evenly(**params)) == possible


def test_uniform_numbers_map_to_tokens_by_their_probability():
    drawn = draw_evenly()
    assert [drawn.count(token) for token in range(5)] == pytest.approx([100, 400, 0, 200, 300], abs=1)


@given(st.lists(st.tuples(logits, parameters, uniforms), min_size=1, max_size=5))
def test_a_row_is_drawn_alike_alone_and_in_company_and_its_logprob_is_log_softmax(rows):
    together = sample(torch.tensor([row for row, _, _ in rows]), [p for _, p, _ in rows], [u for _, _, u in rows])
    for index, (row, params, uniform) in enumerate(rows):
        alone = sample(torch.tensor([row]), [params], [uniform])
        token = together[0][index].item()
        assert token == alone[0].item()
        divided = [value / params.divisor for value in row]
        total = math.log(sum(math.exp(value - max(divided)) for value in divided)) + max(divided)
        assert together[1][index].item() == pytest.approx(divided[token] - total, abs=1e-4)
        if params.greedy:
            assert row[token] == max(row)


@given(tokens, tokens)
def test_a_shared_prefix_is_the_longest(left, right):
    count = shared_prefix(left, right)
    assert left[:count] == right[:count]
    assert count == min(len(left), len(right)) or left[count] != right[count]


slots = st.lists(st.tuples(tokens, st.integers(0, 6), st.booleans(), st.integers(0, 9)), min_size=1, max_size=4).map(
    lambda rows: [
        Slot(index=i, ids=ids, cached=min(cached, len(ids)), busy=busy, used=used)
        for i, (ids, cached, busy, used) in enumerate(rows)
    ]
)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), slots)
def test_a_placement_reuses_only_what_is_there_and_takes_only_what_is_idle(prompt, slots):
    placement = place(prompt, slots)
    if placement is None:
        assert all(slot.busy for slot in slots)
        return
    assert not slots[placement.slot].busy
    source = slots[placement.source]
    assert placement.reused <= min(source.cached, len(prompt) - 1)
    assert list(source.ids[: placement.reused]) == prompt[: placement.reused]
    best = max(min(shared_prefix(prompt, slot.ids), slot.cached, len(prompt) - 1) for slot in slots)
    assert placement.reused == best


def slot(index, ids, *, cached=None, busy=False, used=0):
    return Slot(index=index, ids=ids, cached=len(ids) if cached is None else cached, busy=busy, used=used)


def test_a_continuation_takes_its_slot_and_a_branch_leaves_it_alone():
    held = [slot(0, [1, 2, 3, 4]), slot(1, [])]
    assert place([1, 2, 3, 4, 5], held) == Placement(slot=0, source=0, reused=4)
    assert place([1, 9], held) == Placement(slot=1, source=0, reused=1)


def test_a_prefix_in_a_busy_slot_is_copied_to_the_slot_least_recently_used():
    held = [slot(0, [1, 2, 3], busy=True), slot(1, [7], used=5), slot(2, [8], used=4)]
    assert place([1, 2, 3, 4], held) == Placement(slot=2, source=0, reused=3)


def test_a_request_waits_for_a_neighbour_that_computes_their_prefix():
    prompt = list(range(WORTH_WAITING + 1))
    assert place(prompt, [slot(0, prompt, cached=0, busy=True), slot(1, [])]) is None
    assert place(prompt, [slot(0, prompt, cached=20, busy=True), slot(1, [])]) == Placement(slot=1, source=0, reused=20)


def test_neighbours_of_like_length_are_attended_together():
    assert neighbours([0, 1, 2, 5], [90, 80, 900, 70]) == [(0, 2), (2, 3), (3, 4)]
    assert neighbours([], []) == []


def test_stops_are_the_models_the_requests_and_the_limit():
    rule = stop_rule(SamplingParams(max_new_tokens=9, stop_token_ids=[5]), eos=frozenset({2}), room=3)
    assert finish_reason(rule, [7, 2], None) == {"type": "stop", "matched": 2}
    assert finish_reason(rule, [5], None) == {"type": "stop", "matched": 5}
    assert finish_reason(rule, [7, 7], None) is None
    assert finish_reason(rule, [7, 7, 7], None) == {"type": "length", "length": 3}
    deaf = stop_rule(SamplingParams(ignore_eos=True, stop_token_ids=[5]), eos=frozenset({2}), room=3)
    assert finish_reason(deaf, [5, 2], None) is None


def test_until_the_least_length_what_would_end_a_request_cannot_be_drawn():
    least = SamplingParams(max_new_tokens=9, min_new_tokens=2, stop_token_ids=[3])
    rule = stop_rule(least, eos=frozenset({1}), room=9)
    assert [rule.barred(drawn) for drawn in range(3)] == [{1, 3}, {1, 3}, frozenset()]
    assert stop_rule(SamplingParams(ignore_eos=True, min_new_tokens=2), eos=frozenset({1}), room=9).barred(0) == set()


@given(st.lists(st.tuples(logits, st.sets(st.integers(0, 4), max_size=4)), min_size=1, max_size=4), uniforms)
def test_a_barred_token_is_not_drawn_and_logprobs_are_those_of_the_others(rows, uniform):
    given_, barred = torch.tensor([row for row, _ in rows]), [ids for _, ids in rows]
    ids, logprobs = sample(bar(given_, barred), [SamplingParams()] * len(rows), [uniform] * len(rows))
    assert given_.isfinite().all()
    for row, token, logprob in zip(rows, ids.tolist(), logprobs.tolist(), strict=True):
        left = [place for place in range(5) if place not in row[1]]
        assert token in left
        expected = torch.log_softmax(torch.tensor([row[0][place] for place in left]), dim=-1)[left.index(token)]
        assert logprob == pytest.approx(float(expected), abs=1e-4)


@given(st.text("ab", min_size=1, max_size=5), st.lists(st.sampled_from(["a", "b", "ab", "bba"]), max_size=40))
def test_a_stop_string_is_found_at_the_token_that_completes_it(stop, pieces):
    rule = stop_rule(SamplingParams(stop=stop, max_new_tokens=999), eos=frozenset(), room=999)
    text = ""
    for count in range(1, len(pieces) + 1):
        text += pieces[count - 1]
        found = finish_reason(rule, range(count), lambda ids: "".join(pieces[i] for i in ids))
        assert (found == {"type": "stop", "matched": stop}) == (stop in text)
        if found:
            return
