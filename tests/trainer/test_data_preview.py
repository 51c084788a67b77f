"""`nexrl-train --show-tasks`: the tasks as the agent is given them, in the order of the run; nothing is started."""

import json

import pytest
from typer.testing import CliRunner

from nexrl.errors import ConfigError
from nexrl_trainer.cli import app
from nexrl_trainer.inputs import read
from nexrl_trainer.recipe import load_recipe

RECIPE = """
name: small
steps: 3
model: {path: model}
tasks:
  train:
    - {path: easy.jsonl, name: easy, weight: 3, fields: {question: "{question}\\nAnswer with a number."}}
    - {path: hard.jsonl, name: hard, weight: 1}
  heldout: 0.25
  order: listed
agent: {command: [python, agent.py, "{question}"], files: {"data/{id}.txt": "{text}"}}
reward: reward.py
"""
SHOWN = """\
easy: 6 tasks, 75% of groups, listed
hard: 5 tasks, 25% of groups, listed
held out: 5 tasks

group 0: task e2
  command    python agent.py 'What is 2?
             Answer with a number.'
  file data/e2.txt first
             second
  .id        "e2"
  .question  "What is 2?\\nAnswer with a number."
  .text      "first\\nsecond"
"""


@pytest.fixture
def recipe(tmp_path):
    for letter, name in (("e", "easy"), ("h", "hard")):
        rows = [{"id": f"{letter}{n}", "question": f"What is {n}?", "text": "first\nsecond"} for n in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "reward.py").write_text("import nexrl\n\n@nexrl.reward\ndef good(answer): return 1\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def shown(recipe, *arguments):
    done = CliRunner().invoke(app, [str(recipe), *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_first_tasks_are_shown_as_the_agent_is_given_them_and_nothing_is_started(recipe):
    assert shown(recipe, "--show-tasks", "1") == SHOWN
    assert sorted(item.name for item in recipe.parent.iterdir()) == [
        "easy.jsonl", "hard.jsonl", "recipe.yaml", "reward.py",
    ]  # fmt: skip


def test_a_run_needs_the_model_that_its_tasks_are_shown_without(recipe):
    done = CliRunner().invoke(app, [str(recipe), "--run", str(recipe.parent / "run")])
    assert str(done.exception).startswith(f"model.path=model: no directory {recipe.parent}/model;")
    assert not (recipe.parent / "run").exists()


def test_tasks_come_in_the_order_of_the_run(recipe):
    groups = [
        line for line in shown(recipe, "tasks.order=curriculum", "--show-tasks", "6").splitlines() if "group " in line
    ]
    assert [line.split(":")[0] for line in groups] == [f"group {number}" for number in range(6)]
    assert sum("task h" in line for line in groups[:4]) == 1


def test_a_field_that_the_agent_asks_for_and_a_task_lacks_is_an_error_before_anything_starts(recipe):
    lacking = r"^task 'e0' \(.*/easy\.jsonl:1\): agent: '\{level\}' asks for 'level', the task has .*id, question, text"
    with pytest.raises(ConfigError, match=lacking):
        read(load_recipe(recipe, ["agent={command: [agent, '{level}']}"], {}))


def test_what_a_success_is_may_be_said_for_a_curriculum_without_held_out_tasks(recipe):
    settings = ["tasks.heldout=null", "evaluation.success_at=0.5"]
    assert read(load_recipe(recipe, [*settings, "tasks.order=curriculum"], {})).heldout == []
    with pytest.raises(ConfigError, match=r"evaluation\.success_at: nothing to evaluate on"):
        read(load_recipe(recipe, settings, {}))


def test_a_recipe_that_learns_from_sessions_has_no_tasks_to_show(recipe):
    settings = [
        "tasks={}",
        "agent=null",
        "reward=null",
        "sessions={feedback: {thumb: 1}}",
        "algorithm.advantage=reinforce_pp",
    ]
    done = CliRunner().invoke(app, [str(recipe), *settings, "--show-tasks", "1"])
    assert "learns from `sessions` and draws no tasks" in str(done.exception)
