"""How runs end: with nothing trained, at an evaluation that no rollout survives, and once more after their end."""

import io
import secrets
import time
from array import array
from types import SimpleNamespace

import msgspec
import pytest
from rich.console import Console

from nexrl.errors import RunError
from nexrl.records import Attempt, Drift, Outcome, Sequence, Task, Trajectory, Turn
from nexrl_trainer import cli
from nexrl_trainer.directory import RunDirectory, State
from nexrl_trainer.evaluating import EvaluationError
from nexrl_trainer.loop import train
from nexrl_trainer.measuring import calls_metrics, commonest, why_untrained
from nexrl_trainer.progress import Progress
from nexrl_trainer.recipe import load_recipe
from nexrl_trainer.results import Result, finished, unevaluated, write_summary
from nexrl_trainer.run import run

RESULT = Result(success_before=None, success_after=0.5, best_step=None, steps=2, wall_s=60.0, trained_tokens=0, drift=0)
STEP = {
    "kind": "step",
    "step": 1,
    "reward": 0.25,
    "rollouts": 8,
    "failed": 0,
    "groups": 2,
    "without_contrast": 0,
    "calls": 8,
    "greedy": 0,
    "dropped_without_contrast": 0,
    "trained_tokens": 0,
    "sampled_tokens_per_s": None,
    "staleness_mean": 0.0,
    "rollout_s": 9.0,
    "train_s": 0.5,
    "publish_s": 0.5,
}
RECIPE = """
name: short
steps: 2
model: {path: model}
tasks: {train: tasks.jsonl}
agent: {command: [python, agent.py]}
reward: reward.py
"""


@pytest.fixture
def directory(tmp_path):
    """A run directory with the checkpoint of two steps."""
    made = RunDirectory(tmp_path / "run")
    made.draft(2)
    made.commit(State(step=2), keep=1)
    return made


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return load_recipe(tmp_path / "recipe.yaml")


def steps(*changes):
    return [{"kind": "evaluation", "step": 0, "success": 0.5}, *({**STEP, **change} for change in changes)]


def test_why_nothing_was_trained_is_said_in_words():
    assert why_untrained([]) is None
    assert why_untrained(steps({}, {"trained_tokens": 1})) is None
    one = why_untrained(steps({"failed": 2, "without_contrast": 2}, {"failed": 1, "without_contrast": 2}))
    assert one.startswith("nothing was trained; 3 of 16 rollouts failed: `nexrl sessions` shows why; ")
    assert "4 of 4 groups had no contrast, for the rewards of their rollouts were equal" in one
    assert "rollouts.group_size" in one
    assert "filters" not in one
    assert "failed" not in why_untrained(steps({"without_contrast": 2}))
    # Those that were run and replaced count too; what had contrast fell to the filters.
    replaced = why_untrained(steps({"without_contrast": 1, "dropped_without_contrast": 3}))
    assert "4 of 5 groups" in replaced
    assert "algorithm.filters" in replaced
    assert "algorithm.filters" in why_untrained(steps({"groups": 0}))


def test_that_all_calls_were_greedy_is_named_and_not_what_follows_from_it():
    greedy = steps({"greedy": 8, "without_contrast": 2, "failed": 1})
    assert why_untrained(greedy) == (
        "nothing was trained; 8 of 8 calls were greedy (temperature 0): nothing of them is trained; set "
        "proxy.sampling.train.force.temperature: 1; 1 of 8 rollouts failed: `nexrl sessions` shows why"
    )
    assert "greedy" not in why_untrained(steps({"greedy": 4, "without_contrast": 2}))


def test_the_first_step_of_greedy_calls_says_so_once():
    out = io.StringIO()
    with Progress(Console(file=out, width=200), steps=3, done=0) as progress:
        for step, greedy in enumerate((4, 6, 8), 1):
            progress.step(step, {**STEP, "greedy": greedy})
    told = [line for line in out.getvalue().splitlines() if "greedy" in line]
    assert [line.partition(":")[0] for line in told] == ["6 of 8 calls were greedy (temperature 0)"]


def test_calls_that_cannot_be_trained_are_counted_apart_from_drift():
    turns = [Turn(call=name, start=0, end=1) for name in ("a", "b")]
    empty = array("i")
    laid = Sequence(
        ids=empty, loss_mask=empty, logprobs=array("f"), weight_versions=empty, temperatures=array("f"),
        calls=["a", "b"], turns=turns,
    )  # fmt: skip
    reasons = {"a": ["greedy", "edited"], "b": ["greedy"], "c": ["inexact"]}
    told = [Drift(call=call, reason=reason) for call, named in reasons.items() for reason in named]
    one = Trajectory(session="s", rollout=0, status="completed", reason="", rewards=[], sequences=[laid], drift=told)
    assert calls_metrics([one]) == {"calls": 3, "greedy": 2, "inexact": 1, "drift": 1}


def test_one_is_not_called_by_a_plural():
    assert commonest(["a", "a", "b"]) == "2 times: a; 1 time: b"


def test_a_step_s_line_counts_groups_without_contrast_and_its_seconds_say_the_time_left():
    out = io.StringIO()
    with Progress(Console(file=out, width=200), steps=3, done=0) as progress:
        progress.step(1, {**STEP, "without_contrast": 1})
        progress.evaluated(1, 0.5)
    line, evaluated = out.getvalue().splitlines()
    assert "1 of 2 groups without contrast, 0 failed, 10.0 s" in line
    assert line.endswith("about 20 s left")
    assert evaluated == "held-out success after 1 step: 0.50"


class Failing:
    """Agents of which none comes to its end."""

    def __init__(self, client):
        self.client = client

    async def run(self, group, rollouts, *, priority):
        for rollout in rollouts:
            attempt = Attempt(id=f"{group.id}-{secrets.token_hex(4)}", group=group.id, rollout=rollout)
            await self.client.put_attempt(attempt)
            await self.client.put_outcome(attempt.id, Outcome(status="failed", reason="agent: it broke", calls=0))


async def nothing_to_save(_):
    return None


def world_of(client, directory, recipe):
    return SimpleNamespace(
        recipe=recipe,
        heldout=[Task(id="t", fields={})],
        attempts=Failing(client),
        ingest=client,
        directory=directory,
        checkpoints=SimpleNamespace(end=nothing_to_save),
        progress=Progress(Console(file=io.StringIO()), steps=2, done=0),
    )


async def test_an_evaluation_that_fails_after_training_leaves_the_results_and_names_the_checkpoint(
    client, directory, recipe
):
    result = await train(world_of(client, directory, recipe), State(step=2, trained_tokens=7), time.monotonic())
    assert (result.steps, result.trained_tokens, result.success_after) == (2, 7, None)
    assert result.evaluation_error == "evaluation: every rollout failed; 1 time: agent: it broke"
    write_summary(directory, result)
    assert finished(directory, 2) is None  # the same command evaluates again
    said = unevaluated(result.evaluation_error, directory)
    assert said.startswith(result.evaluation_error)
    assert f"{directory.checkpoints}/step-00002" in said


async def test_an_evaluation_that_fails_before_any_step_ends_the_run(client, directory, recipe):
    with pytest.raises(EvaluationError, match="every rollout failed"):
        await train(world_of(client, directory, recipe), State(), time.monotonic())
    assert issubclass(EvaluationError, RunError)


def test_a_finished_run_is_left_as_it_is_until_it_is_asked_for_more_steps(directory):
    assert finished(directory, 2) is None
    write_summary(directory, RESULT)
    assert finished(directory, 2) == finished(directory, 1) == RESULT
    assert finished(directory, 3) is None
    for step, success in enumerate((0.5, 0.25, 0.5)):
        directory.log({"kind": "evaluation", "step": step, "success": success})
    assert finished(directory, 3, 2) == RESULT  # it stopped early, and would again
    assert finished(directory, 3, 3) is None
    directory.draft(3)
    directory.commit(State(step=3), keep=1)  # an unfinished one, with more steps
    assert finished(directory, 2) is None


def test_a_finished_run_that_is_started_again_says_so_and_starts_nothing(directory, recipe):
    (directory.path / "recipe.yaml").write_bytes((directory.path.parent / "recipe.yaml").read_bytes())
    write_summary(directory, RESULT)
    out = io.StringIO()
    console = Console(file=out, width=120)
    assert run(recipe, None, directory, console) == RESULT
    assert out.getvalue() == "already done: 2 steps\n"
    assert not directory.logs.exists()


def test_the_last_lines_say_that_nothing_was_trained(directory):
    for line in steps({"without_contrast": 2}):
        directory.log(line)
    out = io.StringIO()
    cli._show(Console(file=out, width=300), msgspec.structs.replace(RESULT, steps=1), directory, [])
    assert "done, and nothing was trained" in out.getvalue()
    assert "1 step, 0 trained tokens, 0 drifted calls, 1.0 min" in out.getvalue()
    assert "2 of 2 groups had no contrast" in out.getvalue()


@pytest.mark.parametrize(
    ("best_step", "said"),
    [
        (None, "it is the newest checkpoint: nothing was evaluated"),
        (0, "it is the newest checkpoint: none did better than the model itself (0.38)"),
        (2, None),
    ],
)
def test_the_last_lines_say_where_the_model_that_came_out_is_not_known_to_be_better(directory, best_step, said):
    out, result = io.StringIO(), msgspec.structs.replace(RESULT, best_step=best_step, success_before=0.38)
    cli._show(Console(file=out, width=300), result, directory, [], [])
    assert (said or "trained model") in out.getvalue()
    assert ("newest checkpoint" in out.getvalue()) == (said is not None)
