from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nexrl.records import Int32s
from nexrl_trainer.policy.network.packing import SHORTEST_SHARED, Block, Cost, halved, lay_out, plan

P = list(range(100, 100 + SHORTEST_SHARED))
COST = Cost(pair=0.01)


def ids(*parts):
    return Int32s([token for part in parts for token in part])


def block(rows, keys):
    return Block(rows=rows, keys=keys)


def test_a_shared_prompt_stands_once_and_both_completions_attend_to_it():
    layout = lay_out([ids(P, [1, 2]), ids(P, [3])])
    assert (layout.size, layout.longest) == (19, 18)
    assert layout.blocks == [
        block((0, 16), (0, 16)),
        block((16, 18), (16, 18)),
        block((18, 19), (18, 19)),
        block((16, 19), (0, 16)),
    ]
    assert layout.pieces == [[(0, 0, 16), (16, 16, 18)], [(0, 0, 16), (18, 16, 17)]]


def test_a_beginning_shorter_than_the_shortest_is_not_shared():
    assert lay_out([ids(P[:-1], [1]), ids(P[:-1], [2])]).size == 32


def test_equal_sequences_are_computed_once():
    layout = lay_out([ids(P), ids(P)])
    assert (layout.size, layout.pieces[0]) == (16, layout.pieces[1])


def test_a_sequence_that_is_the_beginning_of_another_costs_no_row():
    layout = lay_out([ids(P, P), ids(P)])
    assert layout.size == 32
    assert layout.pieces == [[(0, 0, 16), (16, 16, 32)], [(0, 0, 16)]]


trees = st.lists(
    st.lists(st.sampled_from([ids(P), ids(P[::-1]), ids([1]), ids([2, 3])]), min_size=1, max_size=5).map(
        lambda parts: ids(*parts)
    ),
    max_size=12,
)


def attended(layout):
    """Return by row the rows it attends to, once each."""
    seen = {row: [] for row in range(layout.size)}
    for item in layout.blocks:
        for row in range(*item.rows):
            seen[row] += range(item.keys[0], row + 1 if item.causal else item.keys[1])
    return seen


@given(trees)
def test_every_token_attends_to_its_own_sequence_so_far_and_to_nothing_else(sequences):
    layout = lay_out(sequences)
    seen = attended(layout)
    for sequence, pieces in zip(sequences, layout.pieces, strict=True):
        rows = [row + position - start for row, start, end in pieces for position in range(start, end)]
        assert len(rows) == len(sequence)
        for position, row in enumerate(rows):
            assert sorted(seen[row]) == sorted(rows[: position + 1])


@given(trees, st.integers(1, 40))
def test_halved_blocks_attend_to_the_same_and_causal_ones_come_first(sequences, most):
    layout = lay_out(sequences)
    parts = halved(layout.blocks, most)
    pairs = {row: sorted(keys) for row, keys in attended(layout).items()}
    assert {row: sorted(keys) for row, keys in attended(replace(layout, blocks=parts)).items()} == pairs
    assert all(item.rows[1] - item.rows[0] <= most for item in parts if item.causal)
    assert [item.causal for item in parts] == sorted((item.causal for item in parts), reverse=True)


@given(trees, st.integers(1, 100), st.integers(1, 4))
def test_a_plan_holds_every_sequence_once_within_the_budget_or_alone(sequences, budget, ranks):
    planned = plan(sequences, budget, COST, ranks)
    assert len(planned) == ranks
    parts = [part for passes in planned for part in passes]
    assert sorted(index for part in parts for index in part) == list(range(len(sequences)))
    for part in parts:
        assert len(part) == 1 or lay_out([sequences[index] for index in part]).size <= budget


def test_ranks_get_equal_cost_not_equal_counts():
    # One long sequence costs 100 + 0.01 * 5000 = 150; four short ones 4 * (30 + 4.5) = 138.
    sequences = [Int32s([9, *range(99)]), *(Int32s([index, *range(29)]) for index in range(4))]
    planned = plan(sequences, 1000, COST, 2)
    assert sorted(sorted(part) for passes in planned for part in passes) == [[0], [1, 2, 3, 4]]


def test_members_of_a_group_stay_together_where_the_budget_allows():
    other = [token + 50 for token in P]
    sequences = [ids(P, [1]), ids(other, [1]), ids(P, [2]), ids(other, [2])]
    assert sorted(plan(sequences, 20, COST)[0]) == [[0, 2], [1, 3]]
