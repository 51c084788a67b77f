"""The other policies that an algorithm needs speak the policy's tokens, or the run is refused before it starts."""

import json

import pytest
from rich.console import Console

from nexrl.errors import ConfigError
from nexrl_trainer.inputs import prepare_models
from nexrl_trainer.recipe import load_recipe

RECIPE = """
name: small
steps: 3
model: {path: student}
tasks: {train: train.jsonl}
agent: {command: [agent]}
reward: reward.py
algorithm: {advantage: distillation, loss: reinforce, teacher: teacher}
"""


def model(folder, *words, config=None):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config or {"vocab_size": 8}))
    (folder / "model.safetensors").touch()
    if words:
        vocab = {word: index for index, word in enumerate(words)}
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": []}))


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    for name in ("train.jsonl", "reward.py"):
        (tmp_path / name).touch()
    return load_recipe(tmp_path / "recipe.yaml", [], {})


@pytest.mark.parametrize("words", [("a", "b"), ()])
def test_a_teacher_of_the_same_vocabulary_is_taken(recipe, tmp_path, words):
    model(tmp_path / "student", *words)
    model(tmp_path / "teacher", *words)
    recipe.check_models()
    assert prepare_models(recipe, Console()) == {"": tmp_path / "student"}


@pytest.mark.parametrize("words", [("b", "a"), ("a", "b", "c"), ()])
def test_a_teacher_of_another_vocabulary_is_refused(recipe, tmp_path, words):
    model(tmp_path / "student", "a", "b")
    model(tmp_path / "teacher", *words)
    with pytest.raises(ConfigError, match="teacher, teacher: its vocabulary"):
        prepare_models(recipe, Console())


def test_a_teacher_that_is_not_there_is_named(recipe, tmp_path):
    model(tmp_path / "student", "a")
    with pytest.raises(ConfigError, match=r"teacher, teacher: no directory"):
        recipe.check_models()
