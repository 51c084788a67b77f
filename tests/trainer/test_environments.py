"""Environments as agents: what the model is shown, what its replies do, whose rewards they are; what is refused."""

import threading

import aiohttp
import numpy as np
import pytest
from aiohttp import web

import nexrl
from nexrl.errors import ConfigError, RunError, ServiceError
from nexrl.testing import Endpoint
from nexrl_trainer.rollouts.environments.episode import ToolCall, play, seed_of
from nexrl_trainer.rollouts.environments.gymnasium import Environment
from nexrl_trainer.rollouts.environments.model import Model
from nexrl_trainer.rollouts.environments.player import Player
from nexrl_trainer.rollouts.environments.rules import Rules

TASK = {"seed": 5, "door": "left"}


class Doors:
    """The right door is the task's; a wrong one costs."""

    def reset(self, *, seed=None, options=None):
        self.door = options["door"]
        return f"Which door? ({seed})", {}

    def step(self, action):
        right = action == self.door
        return "It is open." if right else f"{action} is shut.", 1.0 if right else -0.25, right, False, {}

    def close(self):
        self.closed = True


class Waiting(Doors):
    """The same, async."""

    async def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options=options)

    async def step(self, action):
        return super().step(action)


def user(text):
    return {"role": "user", "content": text}


def model(text):
    return {"role": "assistant", "content": text}


async def episode(made, *replies, url=None, system=None, max_turns=8, task=TASK):
    """Play with a model that says these; return what came of it, and the conversations it was shown."""
    with Endpoint(*replies) as endpoint:
        async with aiohttp.ClientSession() as http:
            environment = await Environment.made(lambda: made, {}, "file.py:Class")
            asked = Model(http, url=url or f"{endpoint.url}/v1", key="nxr-s.k", name="m")
            try:
                played = await play(environment, asked, task=task, system=system, max_turns=max_turns)
            finally:
                await environment.close()
    return played, endpoint.requests


def rewards(played):
    return [(reward.name, reward.call, reward.value) for reward in played.rewards]


@pytest.mark.parametrize("kind", [Doors, Waiting])
async def test_an_episode_is_one_conversation_and_each_reward_belongs_to_the_call_that_acted(kind):
    played, asked = await episode(kind(), "right", "left", system="Choose.")
    opening = [{"role": "system", "content": "Choose."}, user("Which door? (5)")]
    assert [request.body["messages"] for request in asked] == [
        opening,
        [*opening, model("right"), user("right is shut.")],
    ]
    assert rewards(played) == [("step", "chatcmpl-0", -0.25), ("step", "chatcmpl-1", 1.0), ("environment", None, 0.75)]
    assert (played.answer, played.rewards[-1].explanation, played.cut_off) == ("left", "", "")
    assert "max_tokens" not in asked[0].body


class Tooled:
    tools = ({"type": "function", "function": {"name": "open", "parameters": {"type": "object"}}},)

    def __init__(self):
        self.taken = []

    def reset(self):
        return [user("Two doors."), user("Open one.")], {}

    def step(self, action):
        self.taken.append(action)
        return f"done {len(self.taken)}", 0.5, len(self.taken) == 4, False, {}


def calls(*arguments):
    made = [
        {"id": f"c{number}", "type": "function", "function": {"name": "open", "arguments": text}}
        for number, text in enumerate(arguments)
    ]
    return {"content": None, "tool_calls": made}


async def test_each_call_of_a_tool_is_an_action_and_its_observation_is_the_tools_answer():
    environment = Tooled()
    first = calls('{"door": 1}', "not JSON")
    played, asked = await episode(environment, first, "I wait.", calls("{}", '{"never": 1}'))
    assert asked[0].body["tools"] == list(Tooled.tools)
    assert asked[1].body["messages"][2:] == [
        {"role": "assistant", **first},
        {"role": "tool", "tool_call_id": "c0", "content": "done 1"},
        {"role": "tool", "tool_call_id": "c1", "content": "done 2"},
    ]
    assert environment.taken == [
        ToolCall(id="c0", name="open", arguments={"door": 1}),
        ToolCall(id="c1", name="open", arguments="not JSON"),
        "I wait.",
        ToolCall(id="c0", name="open", arguments={}),
    ]
    assert [value for _, _, value in rewards(played)] == [1.0, 0.5, 0.5, 2.0]


class Wrapped:
    """As a wrapper is written that passes everything on and shows its own attributes alone."""

    def __init__(self, inside):
        self.unwrapped = inside

    def reset(self, **given):
        return self.unwrapped.reset(**given)

    def step(self, action):
        return self.unwrapped.step(action)


async def test_a_wrapped_environment_begins_as_the_task_says_and_keeps_its_tools():
    _, shown = await episode(Wrapped(Doors()), "left")
    assert shown[0].body["messages"] == [user("Which door? (5)")]
    made = await Environment.made(lambda: Wrapped(Tooled()), {}, "file.py:Class")
    assert made.tools == list(Tooled.tools)
    await made.close()


async def test_texts_of_numpy_are_texts():
    doors = Doors()
    doors.reset = lambda **given: (np.str_(Doors.reset(doors, **given)[0]), {})
    _, shown = await episode(doors, "left")
    assert shown[0].body["messages"] == [user("Which door? (5)")]


async def test_an_episode_without_an_end_is_cut_off_and_what_it_earned_counts():
    played, asked = await episode(Doors(), *["right"] * 3, max_turns=3)
    assert len(asked) == 3
    assert played.rewards[-1].value == -0.75
    assert played.rewards[-1].explanation == played.cut_off == "cut off after 3 turns"


async def served(answers):
    """Serve these (status, headers, body) one after the other; return the runner and its address."""
    left = iter(answers)

    async def answer(_):
        status, headers, body = next(left)
        return web.json_response(body, status=status, headers=headers)

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"


AWAY = (503, {"retry-after": "0"}, {})
SAID = (200, {}, {"id": "r-1", "choices": [{"message": model("right")}]})
FULL = (400, {}, {"error": {"code": "context_length_exceeded", "message": "too long"}})
BROKEN = (500, {}, {"error": {"message": "it broke"}})


@pytest.fixture
def endless_pauses(monkeypatch):
    """Whoever does not wait only as long as it is told to waits for ever."""
    monkeypatch.setattr("nexrl_trainer.rollouts.environments.model.PAUSES_S", (1e6, 1e6))


@pytest.mark.usefixtures("endless_pauses")
async def test_a_full_context_ends_the_episode_and_a_model_that_is_away_is_asked_again():
    runner, url = await served([AWAY, SAID, AWAY, AWAY, FULL])
    played, _ = await episode(Doors(), url=url)
    await runner.cleanup()
    assert rewards(played) == [("step", "r-1", -0.25), ("environment", None, -0.25)]
    assert played.rewards[-1].explanation == "cut off: the model's context is full"


@pytest.mark.usefixtures("endless_pauses")
@pytest.mark.parametrize(("answers", "said"), [([BROKEN], "500: .*it broke"), ([AWAY] * 3, "503")], ids=["500", "503"])
async def test_a_model_that_does_not_answer_is_an_error_that_says_where_and_what(answers, said):
    runner, url = await served(answers)
    with pytest.raises(ServiceError, match=rf"model at {url}/chat/completions: {said}"):
        await episode(Doors(), url=url)
    await runner.cleanup()


async def test_nobody_at_the_models_address_is_an_error(monkeypatch):
    monkeypatch.setattr("nexrl_trainer.rollouts.environments.model.PAUSES_S", (0.0, 0.0))
    with pytest.raises(ServiceError, match="503: ClientConnectorError"):
        await episode(Doors(), url="http://127.0.0.1:1/v1")


class Returns(Doors):
    """Whatever it is told to."""

    def __init__(self, *, reset=("Well?", {}), step=("again", 0, False, False, {})):
        self.returned = reset, step

    def reset(self, *, seed=None, options=None):
        return self.returned[0]

    def step(self, action):
        return self.returned[1]


class Strange(Doors):
    def reset(self, difficulty):
        """No seed, no options."""


class Ends(Doors):
    def step(self, action):
        raise StopIteration


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (Returns(step=("x", float("nan"), False, False, {})), "step returned the reward nan: return a finite number"),
        (Returns(step=("x", "much", False, False, {})), "step returned the reward 'much': return a finite number"),
        (Returns(step=("x", 1.0, True, {})), r"step returned \('x', 1.0, True, {}\): return \(observation, reward, te"),
        (Returns(step=(7, 1.0, False, False, {})), "the observation 7 is no text: return text, or a list of chat mess"),
        (Returns(reset="Well?"), r"reset returned 'Well\?': return \(observation, info\)"),
        (Returns(reset=(["Well?"], {})), r"the observation 'Well\?' is no chat message: use {"),
        (Strange(), "its reset asks for 'difficulty': it can have seed, options"),
        (object(), "a object has no 'reset'; Gymnasium's Env has"),
    ],
    ids=["nan", "text", "four-values", "number", "one-value", "no-message", "other-parameters", "no-environment"],
)
async def test_what_an_environment_returns_and_nobody_can_use_is_named(made, said):
    with pytest.raises(RunError, match=rf"environment file\.py:Class: {said}"):
        await episode(made, "right", "right")


async def test_an_observation_that_answers_a_tool_call_has_to_be_text():
    environment = Returns(step=([user("no")], 0, False, False, {}))
    environment.tools = Tooled.tools
    with pytest.raises(RunError, match="answers a tool call: return text"):
        await episode(environment, calls("{}"))


async def test_an_environment_whose_generator_is_exhausted_fails_and_does_not_hang():
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        await episode(Ends(), "right")


class Bound(Doors):
    """Notes the thread and the session of everything that is done with it."""

    def __init__(self):
        self.seen = []
        self.note()

    def note(self):
        self.seen.append((threading.get_ident(), nexrl.current_session().id))

    def reset(self, *, seed=None, options=None):
        self.note()
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.note()
        return super().step(action)

    def close(self):
        self.note()
        made.append(self)


made = []


async def test_an_environment_lives_in_one_thread_of_its_own_and_in_its_session():
    with nexrl.session("attempt-1"):
        environment = await Environment.made(Bound, {}, "file.py:Class")
        with Endpoint("left") as endpoint:
            async with aiohttp.ClientSession() as http:
                asked = Model(http, url=f"{endpoint.url}/v1", key="nxr-s.k", name="m")
                await play(environment, asked, task=TASK, system=None, max_turns=1)
        await environment.close()
    [(thread, session)] = set(made[-1].seen)
    assert (thread != threading.get_ident(), session, len(made[-1].seen)) == (True, "attempt-1", 4)


def test_rollouts_of_a_task_begin_alike_by_its_seed_or_by_all_of_it():
    assert seed_of({"seed": 7, "level": 2}) == 7
    assert seed_of({"level": 2, "maze": "a"}) == seed_of({"maze": "a", "level": 2}) == 1522427455
    assert seed_of({"level": 3, "maze": "a"}) != seed_of({"level": 2, "maze": "a"})


@pytest.mark.parametrize(
    ("member", "said"),
    [
        ("Nobody", "no class or function 'Nobody' in it"),
        ("Asking", r"asks for 'difficulty': it can have task"),
    ],
)
def test_a_file_that_makes_no_environment_is_refused(tmp_path, member, said):
    (tmp_path / "maze.py").write_text("class Asking:\n    def __init__(self, difficulty): ...\n")
    with pytest.raises(ConfigError, match=rf"maze\.py.*{said}"):
        Player.loaded(str(tmp_path / "maze.py"), member, Rules(system=None, max_turns=1, max_tokens=None))
