"""A command whose program or script is not there is refused before anything starts, by name and with the remedy."""

import io

import pytest
from msgspec import convert
from rich.console import Console

from nexrl.errors import ConfigError
from nexrl_trainer.directory import RunDirectory
from nexrl_trainer.inputs import read
from nexrl_trainer.recipe import load_recipe
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.rollouts.failures import Failures, described
from nexrl_trainer.rollouts.runners.program import refuse_no_program
from nexrl_trainer.rollouts.runners.runner import Ended
from nexrl_trainer.run import run


def refuse(folder, *command, **agent):
    refuse_no_program(convert({"command": list(command), **agent}, Agent), folder)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "agent.py").touch()
    (tmp_path / "tool").touch(mode=0o755)
    (tmp_path / "notes").touch(mode=0o644)
    (tmp_path / "inner").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["python", "agnet.py"], r"no file .*/agnet\.py for python to run; correct path or agent\.cwd"),
        (["python3", "{recipe_folder}/agnet.py"], r"no file .*/agnet\.py for python3 to run"),
        (["sh", "no.sh", "-x"], r"no file .*/no\.sh for sh to run"),
        (["no-such-program", "x"], "no program 'no-such-program' on the PATH; install it"),
        (["./notes"], r"no program '\./notes' that can be run in "),
        (["a/.venv/bin/python", "agent.py"], r"make its environment first: python -m venv a/\.venv, and install"),
    ],
    ids=["script", "folder", "shell", "path", "executable", "venv"],
)
def test_what_is_not_there_is_named_with_the_remedy(folder, command, said):
    with pytest.raises(ConfigError, match=rf"agent\.command: .*{said}"):
        refuse(folder, *command)


@pytest.mark.parametrize(
    ("command", "agent"),
    [
        (["python", "agent.py", "{question}"], {}),
        (["python", "-m", "nowhere"], {}),
        (["node", "agent"], {}),
        (["bash", "ls"], {}),
        (["python", "{script}"], {}),
        (["{program}", "x"], {}),
        (["./tool", "no-file"], {}),
        (["python", "../agent.py"], {"cwd": "inner"}),
        (["python", "made.py"], {"files": {"made.py": "{code}"}}),
        (["tool"], {"env": {"PATH": "FOLDER"}}),
    ],
    ids=[
        "script",
        "module",
        "node",
        "on the path",
        "a tasks script",
        "a tasks program",
        "any program",
        "cwd",
        "files",
        "its own PATH",
    ],
)
def test_what_is_there_or_is_a_tasks_is_let_through(folder, command, agent):
    env = {name: value.replace("FOLDER", str(folder)) for name, value in agent.get("env", {}).items()}
    refuse(folder, *command, **agent | {"env": env})


def test_a_failed_attempt_is_written_down_with_the_last_that_it_printed(tmp_path):
    failures = Failures(tmp_path / "failures.log")
    ended = Ended(exit_code=1, answer="", stderr="x" * 20_000 + "\nKeyError\n", stdout=" hello\n", duration_s=0.25)
    failures.note("a-1", "agent: exit code 1", ended)
    failures.note("a-2", "agent: no end within 5 s", Ended(answer="", duration_s=5))
    first, begun, *lines = (tmp_path / "failures.log").read_text().splitlines()
    assert first.endswith("+00:00 a-1 after 0.2 s: agent: exit code 1")
    assert begun == "    stderr | " + "x" * (16_384 - len("\nKeyError\n"))
    assert lines[:2] == ["    stderr | KeyError", "    stdout | hello"]
    assert lines[2].endswith(" a-2 after 5.0 s: agent: no end within 5 s")
    assert described("a-3", "why", Ended(answer="", duration_s=1)) == "a-3 after 1.0 s: why\n"


RECIPE = """
name: little
steps: 1
model: {path: model, make: make.py}
tasks: {train: rows.jsonl}
agent: {command: [python, agnet.py]}
reward: reward.py
"""


@pytest.fixture
def recipe(folder):
    """A recipe that names a script which is not there."""
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "rows.jsonl").write_text('{"id": "1"}\n')
    (folder / "make.py").write_text("import sys, pathlib; pathlib.Path(sys.argv[2]).mkdir()")
    (folder / "reward.py").write_text("import nexrl\n@nexrl.reward\ndef one(): return 1\n")
    return load_recipe(folder / "recipe.yaml", environment={})


def refuse_to_run(recipe, folder):
    with pytest.raises(ConfigError, match=r"no file .*/agnet\.py"):
        run(recipe, read(recipe), RunDirectory(folder / "run"), Console(file=io.StringIO()))


def test_a_run_without_its_script_is_refused_before_its_model_is_made(recipe, folder):
    refuse_to_run(recipe, folder)
    assert not (folder / "model").exists()


def test_a_run_that_is_refused_leaves_an_earlier_start_where_it_was(recipe, folder):
    directory = RunDirectory(folder / "run")
    right = load_recipe(folder / "recipe.yaml", ["agent.command=[python, agent.py]"], {})
    with directory.opened(right) as changed:
        directory.begin(right, changed)
    begun = directory.recipe_file.read_text()
    refuse_to_run(recipe, folder)
    assert directory.recipe_file.read_text() == begun
    assert sorted(item.name for item in directory.path.iterdir()) == [".lock", "recipe.yaml"]
