import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexrl.records import Float32s, Int32s
from nexrl_trainer.batches.datums import Datum, minibatches, weighed


def datum(session, length):
    return Datum(
        ids=Int32s(range(length)),
        loss_mask=Int32s([0, *[1] * (length - 1)]),
        logprobs=Float32s([0.0] * length),
        temperatures=Float32s([1.0] * length),
        weight_versions=Int32s([0] * length),
        advantages=Float32s([0.0] * length),
        weights=Float32s([0.0] * length),
        session=session,
    )


datums = st.lists(st.builds(datum, st.sampled_from("abcdefgh"), st.integers(2, 50)), max_size=30)


@given(datums, st.integers(1, 6))
def test_minibatches_hold_every_datum_once_and_never_split_a_rollout(items, count):
    parts = minibatches(items, count)
    assert sorted(id(item) for part in parts for item in part) == sorted(map(id, items))
    assert len(parts) <= count
    assert all(parts)
    homes = [{item.session for item in part} for part in parts]
    assert sum(map(len, homes)) == len(set().union(*homes))


def test_weights_stand_on_trained_tokens_alone_and_are_those_of_the_minibatch():
    batch = weighed([datum("a", 3), datum("a", 2), datum("b", 2)], "rollout")
    assert [list(item.weights) for item in batch] == [
        pytest.approx([0, 1 / 6, 1 / 6]),
        pytest.approx([0, 1 / 6]),
        pytest.approx([0, 1 / 2]),
    ]
