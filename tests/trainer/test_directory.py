import msgspec
import pytest

from nexrl.errors import ConfigError
from nexrl_trainer.directory import RunDirectory, State
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.recipe.sessions import Sessions
from nexrl_trainer.recipe.trackers import Trackers
from nexrl_trainer.recipe.train import Train
from nexrl_trainer.recipe.tree import Model, Proxy, Recipe, Tasks

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


def save(directory, step, keep=2, trained_tokens=9):
    (directory.draft(step) / "weights").write_text(str(step))
    directory.commit(State(step=step, version=step, trained_tokens=trained_tokens), keep)


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
    assert directory.model == directory.checkpoints / "step-00001"
    directory.mark_best(1)
    assert directory.model == directory.best
    for step in (2, 3):
        save(directory, step, keep=1)
    assert saved() == ["step-00001", "step-00003"]
    assert (directory.best / "weights").read_text() == "1"
    assert directory.latest()[1].step == 3
    directory.mark_best(3)
    save(directory, 4, keep=1)
    assert saved() == ["step-00003", "step-00004"]
    assert (directory.best / "weights").read_text() == "3"


def open_and_leave(directory, recipe=RECIPE):
    with directory.opened(recipe) as changed:
        return directory.begin(recipe, changed)


def test_a_run_that_has_trained_goes_on_under_what_it_learns_and_how_it_learns_may_change(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    open_and_leave(directory)
    save(directory, 1)
    slower = msgspec.structs.replace(RECIPE.agent, concurrency=2, timeout_s=900.0, attempts=3, preload=["json"])
    small = Train(threads=2, micro_batch_tokens=512)
    how = changed(steps=9, trackers=Trackers(tensorboard=True), agent=slower, train=small, proxy=Proxy(port=8001))
    assert open_and_leave(directory, how) is None
    with pytest.raises(ConfigError, match=r"seed was 0, is 4\..* remove this one to begin anew"):
        open_and_leave(directory, changed(seed=4))
    with pytest.raises(ConfigError, match=r"train\.learning_rate was 1e-06, is 0\.1"):
        open_and_leave(directory, changed(train=Train(learning_rate=0.1)))
    assert directory.latest()[1].step == 1


def test_a_start_that_trained_nothing_is_put_aside_for_a_corrected_recipe(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    for number, script in enumerate(["agent.py", "mended.py", "again.py"]):
        note = open_and_leave(directory, changed(agent=Agent(command=["python", script])))
        assert (note is None) == (number == 0)
        directory.ingest.mkdir()  # fails where an earlier start's rollouts are still in the way
        (directory.ingest / "rollouts").write_text(script)
        save(directory, 1, trained_tokens=0)
    assert note.startswith(
        "the recipe has changed (agent.command was ['python', 'mended.py'], is ['python', 'again.py']"
    )
    assert note.endswith(f"what was there is in {directory.path / 'earlier-2'}")
    for name, script in (("earlier-1", "agent.py"), ("earlier-2", "mended.py"), (".", "again.py")):
        assert (directory.path / name / "ingest" / "rollouts").read_text() == script
        assert script in (directory.path / name / "recipe.yaml").read_text()


def test_peoples_sessions_are_not_put_aside(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    learns = Recipe(name="r", steps=3, model=Model(path="m"), sessions=Sessions(group="key", feedback={"thumbs": 1.0}))
    open_and_leave(directory, learns)
    with pytest.raises(ConfigError, match="seed was 0, is 4"):
        open_and_leave(directory, msgspec.structs.replace(learns, seed=4))


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
    with directory.opened(RECIPE) as changed:
        directory.begin(RECIPE, changed)
        directory.log({"kind": "step", "step": 1, "reward": 0.1})
        directory.log({"kind": "step", "step": 2, "reward": 0.2})
    with directory.metrics_file.open("ab") as file:
        file.write(b'{"kind": "step", "st')
    with directory.opened(RECIPE):
        directory.log({"kind": "step", "step": 2, "reward": 0.3})
    assert [line["reward"] for line in directory.metrics()] == [0.1, 0.3]
