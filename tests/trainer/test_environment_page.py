"""docs/agents.md: its environment, FrozenLake in words, is played as the page says."""

import re
from pathlib import Path

from runner_world import job

from nexrl.testing import Endpoint
from nexrl_trainer.rollouts.environments.player import Player
from nexrl_trainer.rollouts.environments.rules import Rules
from nexrl_trainer.rollouts.runners.callable_messages import Start

PAGE = (Path(__file__).parents[2] / "docs/agents.md").read_text()
[LAKE] = re.findall(r"^```python lake\.py\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
SYSTEM = "On {size} squares."


async def test_the_pages_lake_is_crossed(tmp_path, monkeypatch):
    (tmp_path / "lake.py").write_text(LAKE)
    with Endpoint("swim", "down", "down", "right", "down", "right", "right") as model:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{model.url}/v1")
        monkeypatch.setenv("OPENAI_MODEL", "m")
        rules = Rules(system=SYSTEM, max_turns=20, max_tokens=8)
        player = Player.loaded(str(tmp_path / "lake.py"), "Lake", rules)
        given = job("run-1", seed=3, size=4)
        played = await player.call(Start(number=0, attempt=given.attempt, key=given.key, task=dict(given.task)), None)
    assert [reward.value for reward in played.rewards] == [-0.1, 0, 0, 0, 0, 0, 1.0, 0.9]
    assert {(request.session, request.body["max_tokens"]) for request in model.requests} == {("run-1", 8)}
    first, *others = [request.body["messages"][-1]["content"] for request in model.requests]
    assert first == "SFHF\nFFFF\nFFFF\nFFFG\nYou are in row 0, column 0."
    assert others[:2] == ["Say one of left, down, right, up.", "You are in row 1, column 0."]
    assert model.requests[0].body["messages"][0]["content"] == "On 4 squares."
