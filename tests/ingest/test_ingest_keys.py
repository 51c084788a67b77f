"""Who may do what: every route with every kind of key."""

import pytest
import typer
from ingest_world import ADMIN_KEY, call, group
from typer.testing import CliRunner

from nexrl.keys import attempt_key, read_key, reward_grant, trainer_key
from nexrl.records import Attempt, Outcome, Reward, encode
from nexrl_ingest.app import ROUTES
from nexrl_ingest.commands import serve

KEYS = {
    "admin": ADMIN_KEY,
    "trainer": trainer_key(ADMIN_KEY),
    "read": read_key(ADMIN_KEY),
    "attempt": attempt_key("mine", ADMIN_KEY),
    "reward": reward_grant("mine", ADMIN_KEY),
    "attempt elsewhere": attempt_key("other", ADMIN_KEY),
    "reward elsewhere": reward_grant("other", ADMIN_KEY),
    "none": None,
}
PLAN, READ, OWN = {"admin", "trainer"}, {"admin", "trainer", "read"}, {"admin", "trainer", "read", "attempt"}
OTLP = ("/v1/traces", "/v1/logs", "/v1/metrics")
LET_IN = {
    ("PUT", "/api/groups/{id}"): PLAN,
    ("GET", "/api/groups/{id}"): READ,
    ("PUT", "/api/attempts/{id}"): PLAN,
    ("PUT", "/api/attempts/{id}/outcome"): PLAN,
    ("POST", "/api/groups/lease"): PLAN,
    ("POST", "/api/leases/ack"): PLAN,
    ("POST", "/api/leases/nack"): PLAN,
    ("GET", "/api/runs"): READ,
    ("GET", "/api/runs/{run}"): READ,
    ("PUT", "/api/runs/{run}/rule"): PLAN,
    ("POST", "/api/runs/{run}/external"): READ,
    ("GET", "/api/runs/{run}/groups"): READ,
    ("GET", "/api/sessions"): READ,
    ("GET", "/api/sessions/{id}"): OWN,
    ("GET", "/api/sessions/{id}/trajectory"): OWN,
    ("GET", "/api/sessions/{id}/calls"): READ,
    ("POST", "/api/sessions/{id}/rewards"): {"admin", "trainer", "attempt", "reward"},
    ("POST", "/api/sessions/{id}/tags"): {"admin", "trainer", "attempt", "reward"},
    ("GET", "/api/sessions/{id}/rewards"): OWN,
    ("GET", "/api/events"): READ,
    ("GET", "/health"): set(KEYS),
    ("GET", "/metrics"): set(KEYS),
    ("GET", "/openapi.json"): set(KEYS),
    **{("POST", path): {"admin", "attempt", "attempt elsewhere"} for path in OTLP},
}


def test_the_table_names_every_route():
    assert {(route.method, route.path) for route in ROUTES} | {("POST", path) for path in OTLP} == set(LET_IN)


@pytest.mark.parametrize(("method", "path"), list(LET_IN))
async def test_a_key_reaches_what_it_is_for_and_nothing_else(ingest, method, path):
    await ingest.send(call([1], [2], session="mine"), call([1], [2], session="other"))
    if path == "/api/events":
        path += "?after=wrong"
    for kind, key in KEYS.items():
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        url = ingest.url + path.replace("{id}", "mine").replace("{run}", "run-1")
        async with ingest.http.request(method, url, headers=headers, auto_decompress=False) as response:
            refused = response.status in {401, 403}
            assert refused == (kind not in LET_IN[method, path.partition("?")[0]]), (kind, response.status)
            assert (response.status == 401) == (refused and kind == "none")


@pytest.mark.parametrize(
    "key", ["", "nxk-trainer", "nxk-trainer.wrong", "nxk-reward:mine.wrong", "nxr-mine.wrong", "é"]
)
async def test_a_key_that_is_nobodys_is_refused_without_saying_what_there_is(ingest, key):
    status, reply = await ingest.ask("GET", "/api/no-such-thing", headers={"Authorization": f"Bearer {key}"})
    assert (status, reply["error"]["type"]) == (401, "unauthenticated")


@pytest.mark.parametrize(
    ("kind", "by", "status", "kept"),
    [
        ("admin", None, 200, "trainer"),
        ("trainer", "a-judge", 200, "a-judge"),
        ("attempt", None, 200, "agent"),
        ("attempt", "trainer", 403, None),
        ("reward", None, 200, "grant"),
        ("reward", "alice", 200, "alice"),
        ("reward", "trainer", 403, None),
        ("reward", "agent", 403, None),
    ],
)
async def test_a_reward_says_who_gave_it_and_nobody_speaks_for_another(ingest, kind, by, status, kept):
    await ingest.send(call([1], [2], session="mine"))
    body = {"name": "thumb", "value": 1.0} | ({"by": by} if by else {})
    headers = {"Authorization": f"Bearer {KEYS[kind]}"}
    answered, _ = await ingest.ask("POST", "/api/sessions/mine/rewards", json=body, headers=headers)
    _, rewards = await ingest.ask("GET", "/api/sessions/mine/rewards")
    assert (answered, [item["by"] for item in rewards]) == (status, [kept] if kept else [])


async def test_only_a_trainer_says_when_a_reward_was_given(ingest):
    await ingest.send(call([1], [2], session="mine"))
    body = {"name": "thumb", "value": 1.0, "at_ns": 7}
    for kind, status in (("trainer", 200), ("reward", 403), ("attempt", 403)):
        headers = {"Authorization": f"Bearer {KEYS[kind]}"}
        assert (await ingest.ask("POST", "/api/sessions/mine/rewards", json=body, headers=headers))[0] == status
    _, [reward] = await ingest.ask("GET", "/api/sessions/mine/rewards")
    assert reward["at_ns"] == 7


async def test_a_reward_that_is_true_or_false_is_one_or_zero(ingest):
    await ingest.send(call([1], [2]))
    for value, kept in ((True, 1.0), (False, 0.0)):
        status, reward = await ingest.ask(
            "POST", "/api/sessions/session-1/rewards", json={"name": "solved", "value": value}
        )
        assert (status, reward["value"], type(reward["value"])) == (200, kept, float)


async def test_a_reward_with_an_id_is_kept_once_and_contradicting_it_is_refused(ingest):
    await ingest.send(call([1], [2]))
    body = {"name": "thumb", "value": 1.0, "id": "vote-1", "explanation": "it worked"}
    first = await ingest.ask("POST", "/api/sessions/session-1/rewards", json=body)
    assert await ingest.ask("POST", "/api/sessions/session-1/rewards", json=body) == first
    status, reply = await ingest.ask("POST", "/api/sessions/session-1/rewards", json=body | {"value": 0.0})
    what = "reward 'vote-1' of session 'session-1', 'thumb' = 1 by 'trainer',"
    said = f"{what} is known with other content: another value; use a new id"
    assert (status, reply["error"]["message"]) == (409, said)
    for _ in range(2):
        assert (await ingest.ask("POST", "/api/sessions/session-1/rewards", json={"name": "n", "value": 2}))[0] == 200
    _, rewards = await ingest.ask("GET", "/api/sessions/session-1/rewards")
    assert [(item["name"], item["id"], item["explanation"]) for item in rewards] == [
        ("thumb", "vote-1", "it worked"),
        ("n", None, ""),
        ("n", None, ""),
    ]


async def test_a_value_that_is_no_number_is_refused_in_an_outcome_too(ingest, client):
    await client.put_group(group(size=1))
    await client.put_attempt(Attempt(id="a", group="group-1", rollout=0))
    outcome = Outcome(status="completed", rewards=[Reward(name="r", value=float("nan"))])
    status, reply = await ingest.ask("PUT", "/api/attempts/a/outcome", data=encode(outcome))
    assert (status, "no finite number" in reply["error"]["message"]) == (400, True)
    await client.put_outcome("a", Outcome(status="completed"))


def test_where_the_admin_key_is_made_is_said_and_the_key_is_not(monkeypatch, tmp_path):
    app = typer.Typer()
    app.command()(serve.ingest)
    nowhere = ["--data", str(tmp_path), "--host", "203.0.113.1", "--port", "0"]
    monkeypatch.delenv("NEXRL_ADMIN_KEY", raising=False)
    result = CliRunner().invoke(app, nowhere)
    assert "cannot listen on 203.0.113.1" in str(result.exception)
    said = f"nexrl ingest: NEXRL_ADMIN_KEY is not set: the admin key is kept in {tmp_path}/admin.key; "
    assert result.stderr.startswith(said)
    assert (tmp_path / "admin.key").read_text() not in result.output
    monkeypatch.setenv("NEXRL_ADMIN_KEY", ADMIN_KEY)
    assert CliRunner().invoke(app, nowhere).output == ""
