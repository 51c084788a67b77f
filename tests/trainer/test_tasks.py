import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexrl.errors import ConfigError
from nexrl.records import Task
from nexrl_trainer.tasks import read_tasks, task_of


def test_rows_are_named_by_their_id_or_by_their_place(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"id": "a", "q": 1}\n\n{"q": 2}\n')
    assert read_tasks(path) == [
        Task(id="a", fields={"id": "a", "q": 1}),
        Task(id="train-00003", fields={"q": 2}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1]\n", r":1: .*object"), ('{"id": 1}\n{"id": 1}\n', r":2: id '1'"), ("\n", "no tasks"), ("{", ":1:")],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "train.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_tasks(path)


@given(st.integers(1, 20), st.integers(0, 3))
def test_every_task_is_seen_once_an_epoch(count, seed):
    tasks = [Task(id=str(index), fields={}) for index in range(count)]
    seen = [task_of(tasks, number, seed).id for number in range(3 * count)]
    for start in range(0, len(seen), count):
        assert len(set(seen[start : start + count])) == count


def test_a_group_has_the_same_task_whenever_it_is_planned_and_another_under_another_seed():
    tasks = [Task(id=str(index), fields={}) for index in range(50)]

    def order(seed):
        return [task_of(tasks, number, seed).id for number in range(100)]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1)[:50] != order(1)[50:]
