"""Groups, attempts, outcomes, rewards and views, through the door."""

import asyncio

import msgspec
import pytest
from ingest_world import ADMIN_KEY, call, finish, group

from nexrl.errors import AccessError, ServiceError
from nexrl.records import Attempt, Float32s, Int32s, Outcome, Reward, encode
from nexrl_ingest.client import IngestClient, RolloutState

ATTEMPT = Attempt(id="session-1", group="group-1", rollout=0)
DONE = Outcome(status="completed", rewards=[Reward(name="correct", value=1.0)], calls=1)


async def planned(client) -> None:
    await client.put_group(group())
    await client.put_attempt(ATTEMPT)


async def test_creating_the_same_thing_again_changes_nothing(ingest, client):
    await planned(client)
    await planned(client)
    await ingest.send(call([1], [2]))
    await client.put_outcome("session-1", DONE)
    await client.put_outcome("session-1", DONE)
    [state] = await client.groups("run-1")
    assert (state.final, state.state) == (1, "open")
    assert len((await client.session("session-1"))["rewards"]) == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("groups/group-1", group(size=3), 409, "other content"),
        ("attempts/session-1", Attempt(id="session-1", group="group-1", rollout=1), 409, "other content"),
        ("attempts/session-1/outcome", Outcome(status="failed"), 409, "other content"),
        ("attempts/rival/outcome", Outcome(status="completed"), 409, "one final attempt"),
        ("attempts/nobody/outcome", Outcome(status="completed"), 404, "'nobody' is unknown"),
        ("attempts/new", Attempt(id="new", group="nowhere", rollout=0), 404, "create the group first"),
        ("attempts/new", Attempt(id="new", group="group-1", rollout=2), 400, "rollout 2 is not in a group of 2"),
        ("attempts/new", Attempt(id="old", group="group-1", rollout=0), 400, "is not the URL's"),
        ("attempts/a%20b", Attempt(id="a b", group="group-1", rollout=0), 400, "use 1 to 200 letters"),
        ("groups/empty", group("empty", size=0), 400, "size 0"),
        ("groups/bad", {"id": "bad"}, 400, "missing required field"),
    ],
)
async def test_what_contradicts_the_record_is_refused_with_the_reason(ingest, client, path, body, status, said):
    await planned(client)
    await client.put_attempt(Attempt(id="rival", group="group-1", rollout=0))
    await client.put_outcome("session-1", Outcome(status="completed"))
    answered, reply = await ingest.ask("PUT", f"/api/{path}", data=encode(body))
    assert (answered, reply["error"]["type"] != "") == (status, True)
    assert said in reply["error"]["message"]


async def test_an_outcome_waits_for_its_calls(ingest, client):
    await planned(client)
    status, reply = await ingest.ask("PUT", "/api/attempts/session-1/outcome", data=encode(DONE))
    assert (status, reply["error"]["type"]) == (409, "calls_missing")
    assert "0 of 1 calls" in reply["error"]["message"]
    waiting = asyncio.create_task(client.put_outcome("session-1", DONE, deadline_s=10))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await ingest.send(call([1], [2]))
    await waiting
    await client.put_attempt(Attempt(id="mute", group="group-1", rollout=1))
    with pytest.raises(ServiceError, match="0 of 1 calls have arrived"):
        await client.put_outcome("mute", DONE, deadline_s=0.1)


async def test_a_rollouts_trajectory_is_that_of_its_final_attempt(ingest, client):
    await client.put_group(group(size=1))
    for attempt in ("first", "second"):
        await client.put_attempt(Attempt(id=attempt, group="group-1", rollout=0))
    await client.put_outcome("first", Outcome(status="failed", reason="agent: exit code 3", final=False))
    assert (await client.groups("run-1"))[0].state == "open"
    await ingest.send(call([1], [2], session="second"))
    await client.put_outcome("second", Outcome(status="completed"))
    [leased] = await client.lease("run-1")
    [trajectory] = leased.group.trajectories
    assert (trajectory.session, trajectory.rollout, trajectory.status) == ("second", 0, "completed")


async def test_the_state_of_a_group_names_outcomes_and_rewards(ingest, client):
    await finish(client, group(size=1), status="failed", reason="timeout", rewards=[Reward(name="correct", value=0.5)])
    ask = {"name": "correct", "value": 9.0}
    assert (await ingest.ask("POST", "/api/sessions/group-1-0/rewards", json=ask, headers=ingest.own("group-1-0")))[
        0
    ] == 200
    [state] = await client.groups("run-1")
    assert msgspec.to_builtins(state) | {"outcomes": state.outcomes} == {
        "id": "group-1",
        "task": "task-1",
        "mode": "train",
        "size": 1,
        "final": 1,
        "state": "ready",
        "dropped": None,
        "outcomes": [
            RolloutState(rollout=0, attempt="group-1-0", status="failed", reason="timeout", rewards={"correct": 0.5})
        ],
    }
    assert await client.groups("another") == []


async def test_a_session_shows_calls_chains_drift_and_rewards(ingest, client):
    messages = [{"role": "user", "content": "2+2?"}]
    root = call([1, 2], [3], weight_versions=Int32s([4]), messages=messages, reply={"content": "4"}, model="m")
    child = call([5], [6, 7], parent=root.id, weight_versions=Int32s([4, 5]), drift="edited", agent="critic")
    await ingest.send(child, root)
    shown = await client.session("session-1")
    assert [item.pop("started_ns") < item.pop("ended_ns") + 10**9 for item in shown["calls"]] == [True, True]
    assert shown["calls"][0] == {
        "id": root.id,
        "parent": None,
        "extends": None,
        "model": "m",
        "prompt_tokens": 2,
        "completion_tokens": 1,
        "finish_reason": "stop",
        "weight_versions": [4, 4],
        "drift": None,
        "exact": True,
        "agent": None,
        "policy": "",
        "messages": messages,
        "tools": None,
        "reply": {"content": "4"},
    }
    assert shown["calls"][1]["prompt_tokens"] == 4
    assert shown["calls"][1]["weight_versions"] == [4, 5]
    assert (shown["session"], shown["status"], shown["rewards"]) == ("session-1", "open", [])
    assert shown["chains"] == [[root.id, child.id]]
    assert shown["calls"][1]["extends"] == root.id
    assert shown["measures"] == {
        "sessions": 1,
        "calls": 2,
        "sequences": 1,
        "tokens": 6,
        "trained": 3,
        "drifted": 1,
        "merge_ratio": 2.0,
        "drift_rate": 0.5,
        "trained_share": 0.5,
    }
    assert shown["drift"] == [{"call": child.id, "reason": "edited"}]


async def test_a_call_whose_parent_was_found_by_its_tokens_says_which_it_extends(ingest, client):
    first, second = call([1], [2]), call([1, 2, 3], [4])
    await ingest.send(second, first)
    shown = await client.session("session-1")
    assert [(item["parent"], item["extends"]) for item in shown["calls"]] == [(None, None), (None, first.id)]
    assert (shown["chains"], shown["measures"]["tokens"]) == ([[first.id, second.id]], 4)


async def test_a_trajectory_as_json_has_null_where_nothing_was_sampled(ingest):
    root = call([1, 2], [3], logprobs=Float32s([-0.1]))
    await ingest.send(root)
    ask = {"name": "style", "value": 0.25, "call": root.id}
    assert (await ingest.ask("POST", "/api/sessions/session-1/rewards", json=ask))[0] == 200
    status, shown = await ingest.ask("GET", "/api/sessions/session-1/trajectory", headers=ingest.own("session-1"))
    [reward] = shown.pop("rewards")
    assert reward.pop("at_ns") > 10**18
    assert reward == {**ask, "by": "trainer", "id": None, "explanation": ""}
    assert (status, shown) == (
        200,
        {
            "session": "session-1",
            "status": "open",
            "sequences": [
                {
                    "ids": [1, 2, 3],
                    "loss_mask": [0, 0, 1],
                    "logprobs": [None, None, Float32s([-0.1])[0]],
                    "weight_versions": [None, None, 3],
                    "temperatures": [1.0, 1.0, 1.0],
                    "agent": None,
                    "policy": "",
                }
            ],
            "drift": [],
        },
    )


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/sessions/nobody", None, 404),
        ("GET", "/api/sessions/nobody/trajectory", None, 404),
        ("POST", "/api/sessions/nobody/rewards", b'{"name": "a", "value": 1}', 404),
        ("POST", "/api/sessions/s/rewards", b'{"name": "a", "value": 1e999}', 400),
        ("POST", "/api/sessions/s/rewards", b'{"name": "a"}', 400),
        ("POST", "/api/groups/lease", b'{"run": "r", "limit": 0}', 400),
        ("POST", "/api/groups/lease", b'{"run": "r", "patience": 1}', 400),
        ("GET", "/api/no-such-thing", None, 404),
        ("DELETE", "/api/sessions/s", None, 405),
    ],
)
async def test_an_error_is_json_with_a_message_and_a_type(ingest, method, path, body, status):
    answered, reply = await ingest.ask(method, path, data=body)
    assert answered == status
    assert set(reply["error"]) == {"message", "type"}
    assert all(reply["error"].values())


async def test_the_client_says_which_service_is_away_and_which_key_is_wrong(ingest, unused_url):
    async with IngestClient(unused_url, ADMIN_KEY, give_up_s=0.1) as away:
        with pytest.raises(ServiceError, match=rf"ingest {unused_url}: GET .* is `nexrl ingest` running there\?"):
            await away.groups("run-1")
    stranger = IngestClient(ingest.url, "another-admin-key", ingest.http)
    with pytest.raises(AccessError, match="is NEXRL_ADMIN_KEY the one"):
        await stranger.put_group(group())
