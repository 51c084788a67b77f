import pytest

from nexrl_trainer.evaluating import best_step, stalled


def lines(*successes, first=0):
    """Evaluations five steps apart, with steps in between."""
    evaluations = [
        {"kind": "evaluation", "step": first + 5 * index, "success": success} for index, success in enumerate(successes)
    ]
    return [*evaluations, {"kind": "step", "step": 3}]


def test_the_best_step_is_the_first_of_those_after_which_most_succeeded():
    assert best_step(lines(0.4, 0.7, 0.6, 0.7)) == 5
    assert best_step(lines(0.4, 0.4)) == 0
    assert best_step(lines(0.1, 0.2)[::-1]) == 5
    assert best_step([{"kind": "step", "step": 1}]) is None


@pytest.mark.parametrize(
    ("successes", "patience", "expected"),
    [
        ((0.4, 0.7, 0.6), None, False),
        ((0.4, 0.7, 0.6), 2, False),
        ((0.4, 0.7, 0.6, 0.7), 2, True),  # as good is no better
        ((0.4, 0.7, 0.6, 0.8), 2, False),
        ((0.4,), 1, False),
        ((0.4, 0.3), 1, True),
        ((0.4, 0.5), 1, False),
        ((), 1, False),
    ],
)
def test_a_run_has_stalled_after_so_many_evaluations_without_a_new_best(successes, patience, expected):
    assert stalled(lines(*successes), patience) is expected
