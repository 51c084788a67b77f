"""Every command on a page runs, in order, as a reader would type it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from main_job import ROOT

from nexrl.rewards import load_rewards
from nexrl_trainer.recipe import load_recipe

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("recipes/*/README.md"))]
PAGES += sorted(ROOT.glob("examples/agents/*/README.md"))
SHORT = {
    "NEXRL_STEPS": "1",
    "NEXRL_ROLLOUTS__GROUPS_PER_STEP": "1",
    "NEXRL_ROLLOUTS__GROUP_SIZE": "2",
    "NEXRL_EVALUATION__LIMIT": "1",
}
WHOLE = {"external.md"}
"""Pages whose recipes plan no rollouts, so that there is nothing to shorten."""
# `make` builds environments and runs for minutes: its targets are checked to exist, their commands are run elsewhere.
PREAMBLE = 'set -euo pipefail\nmake() { command make -n "$@" >/dev/null; }\n'


def blocks(page, language):
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def programs(page):
    """Return the programs that a page tells its reader to save, by file name."""
    return dict(re.findall(r"^```python (\S+\.py)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))


def run_script(script, folder, **environment):
    for name in ("recipes", "examples", "Makefile", "pyproject.toml", "constraints.txt"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = subprocess.Popen(
        ["bash", "-c", PREAMBLE + script],
        cwd=folder,
        env={**os.environ, **environment, "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=200)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.soak] * (page.name in WHOLE), id=str(page.relative_to(ROOT)))
        for page in PAGES
        if blocks(page, "bash")
    ],
)
def test_the_commands_on_a_page_run(page, model, tmp_path):
    script = "\n".join(blocks(page, "bash"))
    for name, text in programs(page).items():
        (tmp_path / name).write_text(text)
    short = {} if page.name in WHOLE else SHORT
    code, output = run_script(script, tmp_path, MODEL=str(model), NEXRL_MODEL__PATH=str(model), **short)
    assert code == 0, output


@pytest.mark.slow
@pytest.mark.parametrize("command", ["nexrl-tarin recipe.yaml", "make quickstrat", "nexrl doctr"])
def test_a_command_that_does_not_exist_is_noticed(command, tmp_path):
    assert run_script(command, tmp_path)[0] != 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_and_yaml_on_a_page_are_what_they_say(page, tmp_path):
    for text in blocks(page, "python"):
        path = tmp_path / "reward.py"
        path.write_text(text)
        assert load_rewards(path)
    for text in blocks(page, "yaml"):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        assert load_recipe(path, environment={}).steps
