"""Every agent on docs/proxy.md runs as it stands there: its block, the tools beside it, and an address."""

import re
from pathlib import Path

import pytest
from agent_cases import CODEX
from agent_environments import command_of

from nexrl.keys import new_attempt_id

PAGE = Path(__file__).parents[2] / "docs/proxy.md"
BLOCKS = dict(re.findall(r"^```(?:python|sh) ([\w.-]+)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE))
ANSWERS = {"smolagents": "111", "codex": "There are 5 comets."}
REWRITES = {"smolagents": 2}


@pytest.mark.parametrize("name", [name for name in BLOCKS if name != "tools.py"])
def test_an_agent_on_the_page_runs_as_it_stands_there(name, world, show, tmp_path):
    script = tmp_path / ("agent.sh" if name == "codex" else "agent.py")
    script.write_text(BLOCKS[name])
    (tmp_path / "tools.py").write_text(BLOCKS["tools.py"])
    for file, text in CODEX.files.items():
        (tmp_path / file).write_text(text)
    command, variables = command_of(script, name, show)
    attempt = new_attempt_id(name)

    said = world.run(command, attempt, tmp_path, **variables)

    assert (said.code, said.answers[-1:]) == (0, [ANSWERS.get(name, "The answer is 100.")]), said.shown()
    drift = world.captured(attempt).session["drift"]
    assert [item["reason"] for item in drift] == ["edited"] * REWRITES.get(name, 0)
