"""Several models that learn behind one proxy: each with its own engine, template and tokens, none mixed up."""

import asyncio
import contextlib
import json

import aiohttp
import pytest
from proxy_world import ADMIN, served
from scripted_engine import Line, ScriptedEngine
from stub_ingest import StubIngest

from nexrl.errors import ConfigError
from nexrl.keys import attempt_key
from nexrl_ingest.assembly.sequences import drift, sequences
from nexrl_proxy.deployment import Settings, app_of, readings_of
from nexrl_proxy.engines.kinds import Serving
from nexrl_proxy.operating import Access
from nexrl_proxy.policies import Policy, read_policies

HELLO = {"role": "user", "content": "hello"}
MORE = {"role": "user", "content": "what is the weather"}
TEMPLATES = {"": "chatml", "critic": "llama3"}


class Room:
    """A proxy with two models, one engine each, that say what `says` has for them."""

    def __init__(self):
        self.says = {"": "it is sunny", "critic": "thank you"}
        self.engines = {name: ScriptedEngine() for name in TEMPLATES}
        self.ingest = StubIngest()

    def script(self, name):
        renderer = self.readings[name].renderer
        self.engines[name].script = lambda _: Line(ids=[*renderer.encode(self.says[name]), *sorted(renderer.eos)])

    async def ask(self, messages, model="m"):
        headers = {"authorization": f"Bearer {attempt_key('a-1', ADMIN)}"}
        body = {"model": model, "messages": messages}
        async with self.http.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as reply:
            assert reply.status == 200, await reply.text()
            return (await reply.json())["choices"][0]["message"]

    async def operate(self, method, path):
        headers = {"authorization": f"Bearer {ADMIN}"}
        async with self.http.request(method, f"{self.url}{path}", headers=headers) as reply:
            return await reply.json()

    async def recorded(self):
        await self.operate("POST", "/api/sessions/a-1/flush")
        return self.ingest.calls


@contextlib.asynccontextmanager
async def room_of(model_dir, data, room):
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        urls = {name: await enter(served(engine.app)) for name, engine in room.engines.items()}
        folders = {name: model_dir(template) for name, template in TEMPLATES.items()}
        settings = Settings(
            engine=urls[""],
            serving=Serving(),
            model=folders[""],
            ingest=await enter(served(room.ingest.app)),
            data=data,
            access=Access(ADMIN),
            served_model="m",
            policies={"critic": Policy(engine=urls["critic"], model=str(folders["critic"]))},
        )
        room.readings = readings_of(settings)
        room.http = await enter(aiohttp.ClientSession())
        room.url = await enter(served(app_of(settings, room.readings, await enter(aiohttp.ClientSession()))))
        for name in TEMPLATES:
            room.script(name)
        yield room


@pytest.fixture
async def room(model_dir, tmp_path):
    async with room_of(model_dir, tmp_path, Room()) as made:
        yield made


async def test_each_is_asked_by_its_name_with_its_own_template_and_any_other_name_means_the_first(room):
    said = [(await room.ask([HELLO], model))["content"] for model in ("m", "critic", "gpt-5")]
    assert said == ["it is sunny", "thank you", "it is sunny"]
    for name, engine in room.engines.items():
        assert engine.requests[0]["input_ids"] == list(
            room.readings[name].renderer.prompt([HELLO], tools=None, kwargs={})
        )
    assert room.engines[""].requests[0]["input_ids"] != room.engines["critic"].requests[0]["input_ids"]
    assert sorted((call.policy, call.model) for call in await room.recorded()) == [
        ("", "gpt-5"),
        ("", "m"),
        ("critic", "critic"),
    ]


async def converse(room, names, said):
    """Add a turn to the conversation with each of the models."""
    for name in names:
        said[name] = [*said[name], HELLO if not said[name] else MORE]
        said[name] = [*said[name], await room.ask(said[name], name or "m")]


async def test_conversations_with_both_go_on_side_by_side_each_as_one_sequence(room):
    said = {name: [] for name in TEMPLATES}
    for _ in range(3):
        await converse(room, TEMPLATES, said)
    calls = await room.recorded()
    laid = sequences(calls)
    assert drift(calls) == []
    assert sorted((one.policy, len(one.calls)) for one in laid) == [("", 3), ("critic", 3)]
    assert {one.policy: {call.policy for call in calls if call.id in one.calls} for one in laid} == {
        "": {""},
        "critic": {"critic"},
    }


async def test_after_a_restart_each_reads_back_its_own_conversation(model_dir, tmp_path):
    made, said = Room(), {name: [] for name in TEMPLATES}
    for _ in range(2):
        async with room_of(model_dir, tmp_path, made) as room:
            await converse(room, TEMPLATES, said)
            calls = await room.recorded()
    assert drift(calls) == []
    assert sorted((one.policy, len(one.calls)) for one in sequences(calls)) == [("", 2), ("critic", 2)]


async def test_a_held_door_is_that_of_all_of_them(room):
    await room.operate("POST", "/api/hold")
    asking = [asyncio.create_task(room.ask([HELLO], model)) for model in ("m", "critic")]
    async with asyncio.timeout(5):
        while (await room.operate("GET", "/api/stats"))["waiting"] < 2:  # noqa: ASYNC110 - is not ours to signal
            await asyncio.sleep(0.005)
    stats = await room.operate("GET", "/api/stats")
    assert (stats["held"], len(stats["engines"]), stats["healthy_engines"]) == (True, 2, 2)
    assert [engine.requests for engine in room.engines.values()] == [[], []]
    await room.operate("POST", "/api/release?weight_version=7")
    assert [(await one)["content"] for one in asking] == ["it is sunny", "thank you"]


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ({"critic": {"engine": "http://e"}}, "missing required field `model`"),
        ({"critic": {"engine": "http://e", "model": "m", "key": "k"}}, "unknown field `key`"),
        ({"judge": {"engine": "http://e", "model": "m"}}, "'judge' is taken by --models"),
        ({"": {"engine": "http://e", "model": "m"}}, "a model without a name"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path, written, complaint):
    file = tmp_path / "policies.json"
    file.write_text(json.dumps(written))
    with pytest.raises(ConfigError, match=complaint):
        read_policies(file, {"judge": "--models"})


def test_an_upstream_that_returns_text_trains_nobody(tmp_path):
    settings = Settings(
        engine="http://e",
        serving=Serving(kind="openai"),
        model=None,
        ingest="http://i",
        data=tmp_path,
        access=Access(ADMIN),
        served_model="m",
        policies={"critic": Policy(engine="http://e", model="m")},
    )
    with pytest.raises(ConfigError, match="--policies: what an OpenAI upstream says is not trained"):
        readings_of(settings)
