"""From rows to tasks: which are kept, what they say, what they are called, which are held out."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexrl.errors import ConfigError
from nexrl_trainer.data.pools import held_out, read_pools
from nexrl_trainer.recipe import load_recipe, to_yaml
from nexrl_trainer.recipe.tasks import Tasks
from nexrl_trainer.templates import fill


@pytest.fixture
def pools(tmp_path):
    """Read a `tasks` part written as a recipe has it; `files` are JSON Lines by name."""

    def read(part, **files):
        for name, rows in files.items():
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_pools(msgspec.convert(part, Tasks), lambda name: tmp_path / name)

    return read


@pytest.fixture
def train(pools):
    def read(source, rows):
        [pool] = pools({"train": [{"path": "rows.jsonl", **source}]}, rows=rows).train
        return pool.tasks

    return read


def levels(tasks):
    return [task.fields["level"] for task in tasks]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{a} and {b}!", "1 and two!"),
        ("{{a}} {{{a}}} {{{{a}}}}", "{a} {1} {{a}}"),
        ('{"x": {"y": {a}}}', '{"x": {"y": 1}}'),
        (r"\boxed{} {} { a } }{", r"\boxed{} {} { a } }{"),
        ("{list} {yes} {none}", '[1,"é"] true null'),
    ],
)
def test_fields_are_put_into_texts_and_other_braces_stay(template, text):
    assert fill(template, {"a": 1, "b": "two", "list": [1, "é"], "yes": True, "none": None}) == text


@settings(max_examples=25)
@given(st.text(alphabet='{} :"\\'))
def test_a_text_without_names_stays_as_it_is(text):
    assert fill(text, {}) == text


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(1, 6))
def test_braces_around_a_name_are_python_s_where_they_are_paired_and_stay_where_they_are_not(opening, closing):
    paired = min(opening, closing)
    inside = "{" * paired + "a" + "}" * paired
    expected = "{" * (opening - paired) + inside.format(a="1") + "}" * (closing - paired)
    assert fill("{" * opening + "a" + "}" * closing, {"a": 1}) == expected


def test_fields_are_written_anew_from_the_row_and_an_unknown_name_is_an_error(train):
    [task] = train({"fields": {"q": "{q} Think.", "hint": "{q}?"}, "id": "mine-{n}"}, [{"q": "Why", "n": 3}])
    assert task.id == "mine-3"
    assert task.fields == {"q": "Why Think.", "n": 3, "hint": "Why?"}
    with pytest.raises(ConfigError, match=r"rows\.jsonl:2: '\{problem\}' asks for 'problem', the row has q"):
        train({"fields": {"q": "{problem}"}}, [{"q": 1, "problem": 2}, {"q": 1}])


@pytest.mark.parametrize(
    ("op", "value", "kept"),
    [
        ("==", 2, [2]),
        ("!=", 2, [1, 3]),
        ("<", 2, [1]),
        ("<=", 2, [1, 2]),
        (">", 2, [3]),
        (">=", 2.5, [3]),
        ("in", [1, 3], [1, 3]),
        ("not in", [1, 3], [2]),
    ],
)
def test_rows_are_kept_by_a_number(train, op, value, kept):
    rows = [{"level": level} for level in (1, 2, 3)]
    assert levels(train({"where": [{"field": "level", "op": op, "value": value}]}, rows)) == kept


def test_rows_are_kept_by_text_and_by_all_conditions_together(train):
    rows = [{"level": 1, "q": "2 + 2", "tags": ["sum"]}, {"level": 2, "q": "2 * 2", "tags": ["product", "sum"]}]
    has_sum = {"field": "tags", "op": "contains", "value": "sum"}
    assert levels(train({"where": [has_sum]}, rows)) == [1, 2]
    assert levels(train({"where": [has_sum, {"field": "q", "op": "matches", "value": r"\d \*"}]}, rows)) == [2]
    assert levels(train({"where": [{"field": "q", "op": "contains", "value": "+"}]}, rows)) == [1]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"field": "hard", "op": "==", "value": 1}, r"rows\.jsonl:1: where asks for 'hard', the row has level"),
        ({"field": "level", "op": "==", "value": 1}, "field 'level': '1' == 1 cannot be said of str and int"),
        ({"field": "level", "op": "in", "value": [1, 2]}, r"'1' in \[1, 2\] cannot"),
        ({"field": "level", "op": "<", "value": 2}, "'1' < 2 cannot"),
        ({"field": "level", "op": "==", "value": "2"}, "no row is kept"),
    ],
)
def test_a_condition_that_cannot_be_asked_of_a_row_is_an_error_and_so_is_one_that_keeps_none(train, condition, message):
    with pytest.raises(ConfigError, match=message):
        train({"where": [condition]}, [{"level": "1"}])


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"train": [{"path": "a", "where": [{"field": "a", "op": "in", "value": 1}]}]}, "write the value as a list"),
        ({"train": [{"path": "a", "where": [{"field": "a", "op": "matches", "value": "("}]}]}, "no regular expression"),
        ({"train": [{"path": "a", "where": [{"field": "a", "op": "matches", "value": 1}]}]}, "no regular expression"),
        ({"train": [{"path": "a", "where": [{"field": "a", "op": "~", "value": 1}]}]}, "Invalid enum value '~'"),
        ({"train": [{"path": "a", "weight": 1}, {"path": "b"}]}, "b has no weight, others have one"),
        ({"train": "a", "heldout": [{"path": "b", "weight": 1}]}, "tasks.heldout: b has a weight"),
        ({"train": "a", "heldout": 4}, "tasks.heldout=4: a number is a share of tasks.train, .* write 0.1 for a"),
        ({"train": "a", "heldout": 1}, "tasks.heldout=1: a number is a share"),
        ({"train": "a", "heldout": 0.0}, "tasks.heldout=0: a number is a share"),
        ({"train": []}, "length >= 1"),
        ({"train": "a", "curriculum": {"floor": 0.1}}, "tasks.order is shuffled; set it to curriculum"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(part, message):
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(part, Tasks)


def test_a_function_may_say_which_rows_are_kept(train, tmp_path):
    (tmp_path / "mine.py").write_text("def odd(row): return row['level'] % 2 == 1\ndef unsure(row): return 'yes'\n")
    rows = [{"level": level} for level in range(5)]
    assert levels(train({"keep": "mine.py:odd"}, rows)) == [1, 3]
    assert levels(train({"keep": "mine.py:odd", "limit": 1}, rows)) == [1]
    with pytest.raises(ConfigError, match=r"rows\.jsonl:1: mine\.py:unsure returned 'yes'; return True or False"):
        train({"keep": "mine.py:unsure"}, rows)
    with pytest.raises(ConfigError, match=r"rows\.jsonl:1: mine\.py:odd raised KeyError"):
        train({"keep": "mine.py:odd"}, [{}])
    with pytest.raises(ConfigError, match=r"^tasks\.train\[0\]\.keep=odd: write file\.py:function"):
        train({"keep": "odd"}, rows)


def test_a_limit_counts_what_is_kept_and_a_repeat_is_the_same_task_again(train):
    rows = [{"level": level} for level in range(5)]
    where = [{"field": "level", "op": ">", "value": 1}]
    tasks = train({"where": where, "limit": 2, "repeat": 3}, rows)
    assert levels(tasks) == [2, 3] * 3
    assert len({task.id for task in tasks}) == 2


def test_sources_without_weights_are_one_pool_and_with_weights_one_each(pools):
    files = {"a": [{"id": "a"}], "b": [{"id": "b"}]}
    both = pools({"train": [{"path": "a.jsonl"}, {"path": "b.jsonl", "repeat": 2}]}, **files)
    assert [[task.id for task in pool.tasks] for pool in both.train] == [["a", "b", "b"]]
    weighed = [{"path": "a.jsonl", "weight": 1, "name": "first"}, {"path": "b.jsonl", "weight": 3}]
    named = [(pool.name, pool.weight, len(pool.tasks)) for pool in pools({"train": weighed}).train]
    assert named == [("first", 1, 1), ("b.jsonl", 3, 1)]


def test_an_id_stands_once_in_all_sources_and_what_is_held_out_is_never_trained(pools):
    files = {"a": [{"id": "x"}, {"id": "y"}], "b": [{"id": "y"}]}
    again = r"b\.jsonl:1: id 'y' stands already at .*a\.jsonl:2; ids must differ, also from held-out ones"
    for part in ({"train": [{"path": "a.jsonl"}, {"path": "b.jsonl"}]}, {"train": "a.jsonl", "heldout": "b.jsonl"}):
        with pytest.raises(ConfigError, match=again):
            pools(part, **files)
    apart = pools({"train": "a.jsonl", "heldout": [{"path": "b.jsonl", "id": "b-{id}", "repeat": 2}]})
    assert [task.id for task in apart.heldout] == ["b-y", "b-y"]


def test_a_share_is_held_out_by_the_ids_alone(pools):
    rows = [{"id": f"t{index}"} for index in range(200)]
    part = {"train": [{"path": "rows.jsonl", "repeat": 2}], "heldout": 0.25}
    whole, shorter = pools(part, rows=rows), pools(part, rows=rows[:150][::-1])
    trained, held = ({task.id for task in tasks} for tasks in (whole.train[0].tasks, whole.heldout))
    assert not trained & held
    assert trained | held == {row["id"] for row in rows}
    assert len(whole.heldout) == len(held)
    assert 30 <= len(held) <= 70
    assert {task.id for task in shorter.heldout} == held - {row["id"] for row in rows[150:]}


@pytest.mark.parametrize(("share", "message"), [(0.001, "none is held out"), (0.999, "all of rows.jsonl is held out")])
def test_a_share_that_leaves_one_side_empty_is_refused(pools, share, message):
    with pytest.raises(ConfigError, match=message):
        pools({"train": [{"path": "rows.jsonl"}], "heldout": share}, rows=[{"id": "a"}, {"id": "b"}])


@settings(max_examples=30)
@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_holds_out_more_and_never_others(name, one, other):
    small, large = sorted([one, other])
    assert held_out(name, large) or not held_out(name, small)


def test_what_a_recipe_says_of_tasks_survives_being_written_down_with_the_run(tmp_path):
    source = {"path": "a.csv", "where": [{"field": "n", "op": "in", "value": ["1"]}], "fields": {"q": "{{a}} {q}"}}
    tasks = {"train": [{**source, "weight": 0.5, "options": {}}], "heldout": 0.1, "order": "curriculum"}
    written = {"name": "r", "steps": 1, "model": {"path": "m"}, "agent": {"command": ["a"]}, "reward": "r.py"}
    (tmp_path / "recipe.yaml").write_text(json.dumps({**written, "tasks": tasks}))
    recipe = load_recipe(tmp_path / "recipe.yaml", [], {})
    (tmp_path / "again.yaml").write_text(to_yaml(recipe))
    assert load_recipe(tmp_path / "again.yaml", [], {}) == recipe
