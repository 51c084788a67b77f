"""Which tasks are set aside, and for how long that is remembered."""

import pytest

from nexrl.errors import RunError
from nexrl.records import Group, Task
from nexrl_trainer.rollouts import quarantine
from nexrl_trainer.rollouts.quarantine import Quarantine

FINE, BAD = None, "agent: exit code 1"


def group(task="t", size=2, mode="train"):
    return Group(id="g", run="r", task=Task(id=task, fields={}), size=size, mode=mode)


@pytest.fixture
def said():
    return []


@pytest.fixture
def made(tmp_path, said):
    return lambda after=2: Quarantine(after, file=tmp_path / "quarantine.json", say=said.append)


def test_a_task_is_set_aside_after_so_many_groups_in_a_row_and_people_are_told_once(made, said):
    quarantined = made()
    for problems in ([BAD, BAD], [BAD, FINE], [BAD, BAD]):
        quarantined.note(group(), problems)
        assert not quarantined.passes_over("t")
    quarantined.note(group(), [BAD, BAD])
    quarantined.note(group(), [BAD, BAD])
    assert (quarantined.passes_over("t"), quarantined.passes_over("u"), quarantined.count) == (True, False, 1)
    assert said == ["task t is set aside, 2 groups failed: agent: exit code 1"]


def test_what_a_run_set_aside_stays_so_when_it_goes_on(made):
    first = made()
    first.note(group(), [BAD, BAD])
    made().note(group(), [BAD, BAD])
    assert made().passes_over("t")
    assert not made(after=3).passes_over("t")


def test_groups_that_say_nothing_of_the_task_are_not_counted(made, tmp_path):
    quarantined = made(after=1)
    quarantined.note(group(size=3), [BAD, BAD])
    quarantined.note(group(size=1, mode="eval"), [BAD])
    assert not quarantined.passes_over("t")
    made(after=None).note(group(), [BAD, BAD])
    assert not (tmp_path / "quarantine.json").exists()


def test_a_rollout_that_went_well_counts_also_where_the_others_ran_in_an_earlier_start(made):
    quarantined = made()
    quarantined.note(group(), [BAD, BAD])
    quarantined.note(group(), [FINE])
    quarantined.note(group(), [BAD, BAD])
    assert not quarantined.passes_over("t")
    assert not made().passes_over("t")


def test_where_no_task_is_left_the_run_ends_and_says_how_to_go_on(made, monkeypatch):
    monkeypatch.setattr(quarantine, "HOPELESS", 3)
    quarantined = made(after=1)
    quarantined.note(group(), [BAD, BAD])
    assert [quarantined.passes_over(task) for task in ("t", "t", "u", "t", "t")] == [True, True, False, True, True]
    with pytest.raises(RunError, match=r"1 tasks are set aside.*remove .*quarantine\.json"):
        quarantined.passes_over("t")
