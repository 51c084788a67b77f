"""docs/agents.md: every program on it runs as it stands there. Its commands are run with those of all pages."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nexrl.testing import Endpoint

pytestmark = pytest.mark.slow
PAGE = (Path(__file__).parents[2] / "docs/agents.md").read_text()
PROGRAMS = dict(re.findall(r"^```python (\S+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
CHILD = """
import os, urllib.request as http, nexrl
http.urlopen(http.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", b"{}"))
print(nexrl.current_session().agent)
"""


@pytest.fixture
def run(tmp_path):
    for name, text in {**PROGRAMS, "child.py": CHILD}.items():
        (tmp_path / name).write_text(text)

    def run(*words, **environment):
        given = {name: value for name, value in os.environ.items() if name not in {"BAGGAGE", "NEXRL_ADMIN_KEY"}}
        command = [sys.executable, *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=given | environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def model():
    with Endpoint(*["fine"] * 9) as endpoint:
        yield endpoint


@pytest.fixture
def service(model):
    """Where a service calls; its key names no session."""
    return {**model.environment(), "OPENAI_API_KEY": "unused"}


def test_a_service_names_each_ticket_and_its_votes_find_it(run, model, service):
    assert run("support.py", "ticket-1", "Where is my money?", **service) == "fine\n"
    run("vote.py", "ticket-1", "-1", "user-7", NEXRL_ADMIN_KEY="an-admin-key-for-tests", **service)
    assert [(asked.session, asked.group) for asked in model.requests] == [("ticket-1", "refunds")]
    [vote] = model.rewards
    assert (vote.session, vote.body) == (
        "ticket-1",
        {"name": "vote", "value": -1.0, "id": "user-7:ticket-1", "by": "user-7"},
    )


def test_sub_agents_and_threads_are_told_apart(run, model, service):
    run("team.py", **service)
    *served, noted = model.requests
    assert [asked.agent for asked in served] == ["planner", "critic", "critic"]
    assert {asked.group for asked in served} == {"Where is my money?"}
    [session] = {asked.session for asked in served}
    assert session.startswith("session-")
    assert (noted.session, noted.agent) == ("notes", None)


def test_a_subprocess_belongs_to_its_parents_session(run, model, service):
    assert run("launch.py", **service) == "searcher\n"
    assert [asked.session for asked in model.requests] == ["ticket-3"]


def test_an_agent_judges_itself_and_its_tests_pass(run, model):
    assert run("agent.py", "6*7?", **model.environment("s-1")) == "fine\n"
    assert (model.rewards[0].session, model.rewards[0].body["value"]) == ("s-1", 1.0)
    assert "2 passed" in run("-m", "pytest", "-p", "no:cacheprovider", "test_agent.py")
