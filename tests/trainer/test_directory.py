import msgspec
import pytest

from nexrl.errors import ConfigError
from nexrl_trainer.directory import RunDirectory, State
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.recipe.trackers import Trackers
from nexrl_trainer.recipe.tree import Model, Recipe, Tasks

RECIPE = Recipe(
    name="r",
    steps=3,
    model=Model(path="m"),
    tasks=Tasks(train="t.jsonl"),
    agent=Agent(command=["python", "agent.py"]),
    reward="reward.py",
)


def changed(**values):
    return msgspec.structs.replace(RECIPE, **values)


def save(directory, step, keep=2):
    (directory.draft(step) / "weights").write_text(str(step))
    directory.commit(State(step=step, version=step), keep)


def test_the_newest_checkpoints_are_kept_and_found(tmp_path):
    directory = RunDirectory(tmp_path)
    assert directory.latest() is None
    for step in (1, 2, 10):
        save(directory, step)
    folder, state = directory.latest()
    assert ((folder / "weights").read_text(), state.step) == ("10", 10)
    assert sorted(item.name for item in directory.checkpoints.iterdir()) == ["step-00002", "step-00010"]


def test_a_checkpoint_that_breaks_half_way_is_none(tmp_path):
    directory = RunDirectory(tmp_path)
    save(directory, 1)
    (directory.draft(2) / "weights").write_text("ha")  # and never the other half
    assert directory.latest()[1].step == 1
    save(directory, 2)
    assert directory.latest()[1].step == 2


def test_the_best_checkpoint_stays_however_old_it_is_until_a_better_one_comes(tmp_path):
    directory = RunDirectory(tmp_path)

    def saved():
        return sorted(item.name for item in directory.checkpoints.iterdir() if item.name != "best")

    save(directory, 1, keep=1)
    directory.mark_best(1)
    for step in (2, 3):
        save(directory, step, keep=1)
    assert saved() == ["step-00001", "step-00003"]
    assert (directory.best / "weights").read_text() == "1"
    assert directory.latest()[1].step == 3
    directory.mark_best(3)
    save(directory, 4, keep=1)
    assert saved() == ["step-00003", "step-00004"]
    assert (directory.best / "weights").read_text() == "3"


def test_a_run_goes_on_under_the_same_recipe_and_more_steps(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    with directory.opened(RECIPE):
        pass
    with directory.opened(changed(steps=9, trackers=Trackers(tensorboard=True))):
        pass
    with pytest.raises(ConfigError, match="seed was 0, is 4"), directory.opened(changed(seed=4)):
        pass


def test_two_trainers_cannot_share_a_directory(tmp_path):
    directory = RunDirectory(tmp_path)
    with directory.opened(RECIPE), pytest.raises(ConfigError, match="another nexrl-train"), directory.opened(RECIPE):
        pass


def test_a_folder_with_other_things_in_it_is_not_taken_over(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty"), RunDirectory(tmp_path).opened(RECIPE):
        pass


def test_metrics_survive_a_torn_line_and_a_repeated_step_stands_once(tmp_path):
    directory = RunDirectory(tmp_path)
    with directory.opened(RECIPE):
        directory.log({"kind": "step", "step": 1, "reward": 0.1})
        directory.log({"kind": "step", "step": 2, "reward": 0.2})
    with directory.metrics_file.open("ab") as file:
        file.write(b'{"kind": "step", "st')
    with directory.opened(RECIPE):
        directory.log({"kind": "step", "step": 2, "reward": 0.3})
    assert [line["reward"] for line in directory.metrics()] == [0.1, 0.3]
