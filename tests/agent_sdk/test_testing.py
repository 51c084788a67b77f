"""What tests of agents stand on: a scripted endpoint, and rollouts written by hand."""

import os
import subprocess
import sys

import openai
import pytest

import nexrl
from nexrl.testing import Endpoint, rollout

MESSAGES = [{"role": "user", "content": "hi"}]
TOOL_CALL = {"id": "c-1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
AGENT = """
import json, os, urllib.request as http, nexrl
url, headers = os.environ["OPENAI_BASE_URL"], {"authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
reply = http.urlopen(http.Request(url + "/chat/completions", b"{}", headers))
print(json.load(reply)["choices"][0]["message"]["content"])
nexrl.emit_reward("sure", 1, required=True)
"""


def test_an_agent_in_a_process_of_its_own_calls_and_reports():
    with Endpoint("4") as model:
        environment = {**os.environ, **model.environment("s-1")}
        done = subprocess.run(
            [sys.executable, "-c", AGENT], env=environment, capture_output=True, text=True, check=True
        )
    assert done.stdout == "4\n"
    assert [asked.session for asked in model.requests] == ["s-1"]
    [reward] = model.rewards
    assert (reward.session, reward.body["name"], reward.body["value"]) == ("s-1", "sure", 1.0)


def test_tool_calls_are_answered_plain_and_streamed():
    reply = {"content": None, "tool_calls": [TOOL_CALL]}
    with Endpoint(reply, reply) as model, openai.OpenAI(base_url=f"{model.url}/v1", api_key="k") as client:
        plain = client.chat.completions.create(model="m", messages=MESSAGES).choices[0]
        [chunk] = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    assert (plain.finish_reason, plain.message.tool_calls[0].function.name) == ("tool_calls", "add")
    assert (chunk.choices[0].finish_reason, chunk.choices[0].delta.tool_calls[0].id) == ("tool_calls", "c-1")
    assert model.requests[0].body["messages"] == MESSAGES


def test_a_script_that_has_ended_says_so_and_so_does_a_route_that_is_not_there():
    with Endpoint() as model, openai.OpenAI(base_url=f"{model.url}/s/s-1/v1", api_key="k") as client:
        with pytest.raises(openai.BadRequestError, match="request 1: the script has 0 replies"):
            client.chat.completions.create(model="m", messages=MESSAGES)
        with pytest.raises(openai.NotFoundError, match="has chat completions and rewards"):
            client.embeddings.create(model="m", input="x")
    assert [asked.session for asked in model.requests] == ["s-1"]


def test_a_rollout_written_by_hand_is_the_same_every_time():
    tool = {"role": "tool", "tool_call_id": "c-1", "content": "4"}
    asked = {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}
    built = rollout("2+2?", asked, tool, " It is 4 ", task={"answer": "4"}, exit_code=3)
    assert built == rollout("2+2?", asked, tool, " It is 4 ", task={"answer": "4"}, exit_code=3)
    assert (built.answer, built.task, built.exit_code, built.duration_s) == ("It is 4", {"answer": "4"}, 3, 1.5)
    assert [message["role"] for message in built.messages] == ["user", "assistant", "tool", "assistant"]
    first, second = built.calls
    assert (first.id, second.id, second.parent) == ("0000000000000001", "0000000000000002", first.id)
    assert (first.messages, second.messages, second.reply["content"]) == (built.messages[:1], [tool], " It is 4 ")
    assert [len(call.completion) for call in built.calls] == [0, 3]
    assert rollout("only asked").answer == ""


def test_a_reward_function_is_tried_on_it():
    @nexrl.reward
    def short(answer: str, calls: list) -> float:
        return float(len(answer) < 5 and len(calls) == 1)

    made = rollout("2+2?", "4")
    assert short(answer=made.answer, calls=made.calls) == 1.0
