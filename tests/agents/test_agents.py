"""Real agents, unmodified and in environments of their own, in front of real processes.

Each does its tasks in several turns with tools; afterwards each of its conversations is one chain without drift, but
for turns that the framework itself rewrote, and every token that the engine sampled would be trained once.
"""

from pathlib import Path

import pytest
from agent_cases import CASES, CLIENTS
from agent_environments import InstallError, command_of
from agents_exactness import faults

from nexrl.keys import new_attempt_id


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_agent_does_its_tasks_and_every_sampled_token_is_captured_once(case, world, show, tmp_path):
    try:
        command, variables = command_of(CLIENTS / case.client, case.environment, show)
    except InstallError as error:
        pytest.fail(str(error), pytrace=False)
    for name, text in case.job.files.items():
        (tmp_path / name).write_text(text)
    attempt = new_attempt_id(Path(case.client).stem)
    world.glass.taken()

    said = world.run([*command, *case.options, *case.job.tasks], attempt, tmp_path, **variables)

    assert (said.code, said.answers[-len(case.job.answers) :]) == (0, list(case.job.answers)), said.shown()
    seen = world.captured(attempt)
    assert faults(seen.sampled, seen.trajectory) == []
    assert [drift["reason"] for drift in seen.session["drift"]] == ["edited"] * case.rewrites
    assert len(seen.session["chains"]) == len(seen.trajectory["sequences"]) == case.threads + case.rewrites
    assert {sequence["agent"] for sequence in seen.trajectory["sequences"]} - {None} == {*filter(None, [case.named])}
    assert len(seen.sampled) == len(seen.session["calls"]) == seen.flushed == case.job.calls
