"""Other models behind the same proxy: asked by name, recorded with the session, never trained, never mixed up."""

import json
import re
from pathlib import Path

import pytest
from dialect_clients import DIALECTS, ask
from openai import AsyncOpenAI
from proxy_world import ADMIN, served, world_of
from scripted_openai import ScriptedOpenAI

from nexrl.errors import ConfigError
from nexrl_ingest.assembly.sequences import drift, sequences
from nexrl_proxy.models import Other, read_others
from nexrl_proxy.policy import policy_of

PAGE = Path(__file__).parents[2] / "docs/proxy.md"
HELLO = [{"role": "user", "content": "hello"}]
MORE = {"role": "user", "content": "what is the weather"}


@pytest.fixture
async def judge():
    scripted = ScriptedOpenAI()
    async with served(scripted.app) as scripted.url:
        yield scripted


@pytest.fixture
async def world(model_dir, tmp_path, judge, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "its key")
    others = {"judge": Other(url=judge.url, model="big", key_variable="JUDGE_KEY"), "user": Other(url=judge.url)}
    policy = policy_of('{"train": {"force": {"temperature": 0.5}}}')
    async with world_of(model_dir("chatml"), tmp_path / "spool", others=others, policy=policy) as made:
        yield made


async def test_who_asks_for_another_model_by_name_is_answered_by_its_server_in_its_own_name_and_with_its_key(
    world, judge
):
    world.says("it is sunny")
    mine = await world.chat(HELLO)
    theirs = await world.chat(HELLO, model="judge", temperature=0.1)
    await world.chat(HELLO, model="user")
    assert mine["choices"][0]["message"]["content"] == "it is sunny"
    assert (theirs["choices"][0]["message"]["content"], theirs["model"]) == ("hello", "judge")
    # What the deployment forces is about its own model.
    assert [(asked["model"], asked.get("temperature")) for asked in judge.requests] == [("big", 0.1), ("user", None)]
    assert judge.keys == ["Bearer its key", None]
    assert len(world.engine.requests) == 1


async def test_calls_of_all_models_are_in_the_session_and_only_those_of_the_own_one_are_trained(world):
    world.says("it is sunny")
    await world.chat(HELLO)
    await world.chat(HELLO, model="judge")
    assert await world.flush() == 2
    calls = await world.recorded()
    assert sorted((call.model, call.exact) for call in calls) == [("judge", False), ("m", True)]
    assert drift(calls) == []
    [sequence] = sequences(calls)
    [own] = [call for call in calls if call.exact]
    assert list(sequence.ids) == [*own.prompt_delta, *own.completion]


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
async def test_every_dialect_reaches_other_models(world, judge, dialect):
    [said] = await ask(world, dialect, HELLO, model="judge")
    assert said["content"] == "hello"
    assert [asked["messages"] for asked in judge.requests] == [HELLO]


async def test_other_models_stream(world, judge):
    async with AsyncOpenAI(base_url=f"{world.url}/v1", api_key=world.key()) as client:
        stream = await client.chat.completions.create(model="judge", messages=HELLO, stream=True)
        parts = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
    assert [part for part in parts if part] == ["hel", "lo"]
    assert judge.requests[0]["stream"] is True


async def test_what_another_model_said_is_prompt_to_the_own_one_and_never_continued(world):
    world.says("it is sunny", "thank you")
    theirs = await world.chat(HELLO, model="judge")
    await world.chat([*HELLO, theirs["choices"][0]["message"], MORE])
    other, own = sorted(await world.recorded(), key=lambda call: call.exact)
    assert (own.parent, own.drift) == (None, None)
    assert "hello<|im_end|>\n<|im_start|>user\nwhat is" in world.renderer.tokenizer.decode(
        list(own.prompt_delta), skip_special_tokens=False
    )
    assert list(other.completion) == []


async def test_the_own_conversation_goes_on_across_calls_of_other_models_and_across_a_restart(world):
    world.says("it is sunny", "thank you", "world")
    first = await world.chat(HELLO)
    said = [*HELLO, first["choices"][0]["message"], MORE]
    await world.chat(said, model="judge")
    second = await world.chat(said)
    await world.restart()
    await world.chat([*said, second["choices"][0]["message"], MORE])
    own = [call for call in await world.recorded() if call.exact]
    assert [call.parent for call in own] == [None, own[0].id, own[1].id]
    assert [call.drift for call in own] == [None] * 3


async def test_a_previous_response_is_looked_up_with_the_model_that_gave_it(world, judge):
    [first] = await ask(world, "responses", HELLO, model="judge")
    await ask(world, "responses", [MORE], model="judge", previous=first.response)
    assert [message["content"] for message in judge.requests[1]["messages"]] == ["hello", "hello", MORE["content"]]


async def test_all_names_are_listed(world):
    async with AsyncOpenAI(base_url=f"{world.url}/v1", api_key=world.key()) as client:
        assert [model.id async for model in client.models.list()] == ["tiny", "judge", "user"]
        assert (await client.models.retrieve("judge")).id == "judge"


async def test_a_held_door_is_the_own_models(world):
    admin = {"authorization": f"Bearer {ADMIN}"}
    await world.http.post(f"{world.url}/api/hold", headers=admin)
    assert await world.chat(HELLO, model="judge")
    await world.http.post(f"{world.url}/api/release", headers=admin)


async def test_what_other_models_did_is_counted_with_the_rest(world):
    world.says("it is sunny")
    await world.chat(HELLO)
    await world.chat(HELLO, model="judge")
    stats = await world.stats()
    assert (stats["calls"], stats["inexact"]) == (2, 1)


@pytest.mark.parametrize(("own", "of_others"), [(0, 0), (1, 2), (0, 2)])
async def test_a_flush_says_how_many_calls_other_models_answered(world, own, of_others):
    world.says("it is sunny")
    for model in own * ["m"] + of_others * ["judge"]:
        await world.chat(HELLO, model=model)
    admin = {"authorization": f"Bearer {ADMIN}"}
    _, flushed = await world.post({}, path="/api/sessions/a-1/flush", **admin)
    assert flushed == {"calls": own + of_others, "of_other_models": of_others, "refused": None}


async def test_what_a_server_of_another_model_refuses_is_told_in_its_words(world, judge):
    judge.refusal = 400, {"error": {"message": "no credit left", "type": "invalid_request_error"}}
    status, reply = await world.post({"model": "judge", "messages": HELLO})
    assert (status, "no credit left" in reply["error"]["message"]) == (400, True)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{", "truncated"),
        ('{"judge": {"model": "x"}}', "missing required field `url`"),
        ('{"judge": {"url": "http://h", "kee": 1}}', "unknown field `kee`"),
        ('{"mine": {"url": "http://h"}}', "'mine' is what --served-model is called: give another name"),
        ('{"judge": {"url": "http://h", "key_variable": "NOT_SET_HERE"}}', "NOT_SET_HERE, which is not set"),
    ],
)
def test_a_wrong_file_of_models_is_refused_by_name(tmp_path, written, message):
    file = tmp_path / "models.json"
    file.write_text(written)
    with pytest.raises(ConfigError, match=r"--models .*models\.json") as refused:
        read_others(file, "mine")
    assert message in str(refused.value)


def test_the_file_of_models_that_the_documentation_shows_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "k")
    [shown] = re.findall(r"^```json models.json\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    file = tmp_path / "models.json"
    file.write_text(shown)
    assert list(read_others(file, "mine")) == ["judge", "user"]


def test_a_file_of_models_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("KEY_HERE", "k")
    file = tmp_path / "models.json"
    file.write_text(json.dumps({"judge": {"url": "http://h", "model": "big", "key_variable": "KEY_HERE"}}))
    assert read_others(file, "mine") == {"judge": Other(url="http://h", model="big", key_variable="KEY_HERE")}
    assert read_others(None, "mine") == {}
