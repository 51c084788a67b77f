"""A run that goes on with other tasks or other judges than before says so."""

import pytest

from nexrl_trainer.fingerprints import fingerprints, renewed
from nexrl_trainer.inputs import read
from nexrl_trainer.recipe import load_recipe

RECIPE = """
name: small
steps: 3
model: {path: model}
tasks: {train: train.jsonl, heldout: held.jsonl}
agent: {command: [python, agent.py, "{question}"]}
reward: reward.py
"""
JUDGE = "import nexrl\n\n\n@nexrl.reward\ndef right(answer: str) -> float:\n    return {}\n"
FILES = {
    "recipe.yaml": RECIPE,
    "train.jsonl": '{"id": "a", "question": "1"}\n',
    "held.jsonl": '{"id": "b", "question": "2"}\n',
    "reward.py": JUDGE.format(1.0),
    "agent.py": "",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def started(folder):
    recipe = load_recipe(folder / "recipe.yaml")
    return renewed(folder / "fingerprints.json", fingerprints(recipe, read(recipe)))


@pytest.mark.parametrize(
    ("file", "text", "setting"),
    [
        ("reward.py", JUDGE.format(0.5), "reward"),
        ("train.jsonl", '{"id": "a", "question": "3"}\n', "tasks.train"),
        ("held.jsonl", '{"id": "b", "question": "2"}\n{"id": "c", "question": "2"}\n', "tasks.heldout"),
    ],
    ids=["reward", "train", "heldout"],
)
def test_what_is_not_as_it_was_is_named_once(folder, file, text, setting):
    assert [started(folder), started(folder)] == [[], []]
    (folder / file).write_text(text)
    assert started(folder) == [f"{setting} is not what it was at the last start; from here on it counts as it is now"]
    assert started(folder) == []


def test_an_environment_is_a_judge_too(folder):
    (folder / "play.py").write_text("class Play: pass\n")
    (folder / "recipe.yaml").write_text(
        RECIPE.replace('agent: {command: [python, agent.py, "{question}"]}', "agent: {environment: play.py:Play}")
    )
    assert started(folder) == []
    (folder / "play.py").write_text("class Play: reward = 5\n")
    assert [line.partition(" ")[0] for line in started(folder)] == ["agent.environment"]


def test_a_file_that_is_written_otherwise_but_says_the_same_tasks_is_the_same(folder):
    started(folder)
    (folder / "train.jsonl").write_text('{"question": "1",   "id": "a"}\n')
    assert started(folder) == []
