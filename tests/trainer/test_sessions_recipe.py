"""Recipes that learn from sessions: what they say, and what does not go together, by name."""

import msgspec
import pytest

from nexrl.errors import ConfigError
from nexrl_ingest.client import External
from nexrl_trainer.inputs import read
from nexrl_trainer.recipe import Recipe

PLAIN = {
    "name": "support",
    "steps": 1,
    "model": {"path": "model"},
    "sessions": {"feedback": {"thumbs": 1}},
    "algorithm": {"advantage": "reinforce_pp"},
}
SERVED = {name: {"url": f"http://127.0.0.1:{port}"} for port, name in enumerate(("engine", "proxy", "ingest"), 1)}
EVALUATED = {"agent": {"command": ["agent"]}, "reward": "reward.py", "tasks": {"heldout": "heldout.jsonl"}}


def recipe(**parts):
    return msgspec.convert(PLAIN | parts, Recipe, strict=True)


def test_each_session_stands_for_itself_and_a_step_has_as_many_as_groups():
    single = recipe(rollouts={"groups_per_step": 32})
    assert (single.group_size, single.sequences_per_step) == (1, 32)
    assert single.sessions.external(1) == External(feedback=["thumbs"])


def test_sessions_of_a_key_are_compared_as_the_rollouts_of_a_task_are():
    keyed = {"feedback": {"b": 1, "a": 2}, "group": "key", "missing": "zero", "tags": {"x": "y"}}
    pairs = recipe(sessions=keyed, rollouts={"group_size": 2}, algorithm={})
    assert (pairs.group_size, pairs.sequences_per_step) == (2, 16)
    wanted = External(feedback=["a", "b"], group="key", size=2, partial=True, tags={"x": "y"})
    assert pairs.sessions.external(pairs.group_size) == wanted


@pytest.mark.parametrize("parts", [SERVED, EVALUATED, SERVED | EVALUATED], ids=["served", "evaluated", "both"])
def test_services_that_run_and_held_out_tasks_go_with_sessions(parts):
    assert recipe(**parts).sessions


@pytest.mark.parametrize(
    ("parts", "refusal"),
    [
        ({"sessions": {}}, "nothing says what a session was worth"),
        ({"sessions": {"feedback": {"total": 1}}}, "sessions.feedback.total"),
        ({"sessions": {"reward": "judge.py", "missing": "zero"}}, "sessions.missing is about feedback"),
        ({"algorithm": {}}, "algorithm.advantage=grpo compares"),
        ({"algorithm": {"advantage": "best", "loss": "cross_entropy"}}, "algorithm.advantage=best compares"),
        ({"rollouts": {"groups_per_step": 1}}, "one alone is always average"),
        ({"rollouts": {"group_size": 4}}, "rollouts.group_size=4"),
        ({"rollouts": {"max_staleness": 2}}, "rollouts.max_staleness"),
        ({"rollouts": {"oversampling": 2.0}}, "rollouts.oversampling"),
        ({"tasks": {"train": "train.jsonl"}}, "tasks.train: the run learns from"),
        ({"tasks": {"order": "curriculum"}}, "tasks.order=curriculum"),
        (EVALUATED | {"tasks": {"heldout": 0.5}}, "tasks.heldout=0.5"),
        ({"agent": {"command": ["agent"]}}, "reward is missing"),
        ({"rewards": {"weights": {"a": 1}}}, "agent is missing"),
        ({"proxy": SERVED["proxy"]}, "name all three"),
        ({"ingest": SERVED["ingest"], "proxy": SERVED["proxy"]}, "name all three"),
        (SERVED | {"proxy": SERVED["proxy"] | {"history": "template"}}, "proxy.history"),
        ({"sessions": None}, "agent is missing: a run needs tasks"),
        ({"sessions": None, **EVALUATED, "tasks": {"train": "t"}, "ingest": SERVED["ingest"]}, "ingest.url="),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(parts, refusal):
    with pytest.raises(msgspec.ValidationError, match=refusal):
        recipe(**parts)


def test_judges_of_sessions_are_read_before_the_run_starts_and_refused_where_they_need_a_task(tmp_path):
    judge = tmp_path / "judge.py"
    parts = {"folder": str(tmp_path), "sessions": {"feedback": {"thumbs": 1}, "reward": "judge.py"}}
    with pytest.raises(ConfigError, match=r"sessions\.reward=judge\.py: no file"):
        read(recipe(**parts))
    judge.write_text("import nexrl\n@nexrl.reward\ndef brief(answer): return 1\n")
    assert [function.name for function in read(recipe(**parts)).judges] == ["brief"]
    judge.write_text("import nexrl\n@nexrl.reward\ndef thumbs(answer): return 1\n")
    with pytest.raises(ConfigError, match=r"sessions\.feedback\.thumbs: a function"):
        read(recipe(**parts))
    judge.write_text("import nexrl\n@nexrl.reward\ndef right(answer, task): return 1\n")
    with pytest.raises(ConfigError, match="'right' asks for 'task'"):
        read(recipe(**parts))
