"""`nexrl export` and `nexrl replay`: a run as files and in another ingest, bit for bit, or refused."""

import asyncio
import json
import re
import sys
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web
from ingest_world import ADMIN_KEY, Ingest, call, finish, group
from pyarrow import parquet

from nexrl.errors import ConfigError, NexrlError, RunError
from nexrl.records import Attempt, Float32s, Group, Outcome, Reward, Task
from nexrl_ingest.app import make_app
from nexrl_ingest.client import IngestClient
from nexrl_ingest.commands.exporting import Format, export
from nexrl_ingest.commands.replaying import differences, replay
from nexrl_ingest.commands.rows import Row
from nexrl_ingest.store.embedded import EmbeddedStore


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("NEXRL_ADMIN_KEY", ADMIN_KEY)


async def captured(ingest, client) -> None:
    """A run with a branch, a joined call, a failed rollout, an evaluation, an inexact call and a later reward."""
    said = [{"role": "user", "content": "2+2?"}]
    root = call([1, 2], [3], session="a-0", logprobs=Float32s([-0.1]), messages=said, reply={"content": "4"})
    await ingest.send(
        root,
        call([4], [5], session="a-0", parent=root.id, messages=[{"content": "sure?"}], reply={"content": "yes"}),
        call([6], [7], session="a-0", parent=root.id, drift="edited"),
        call([1, 2, 3, 8], [9], session="a-0", agent="critic"),
        call([], [], session="a-0", exact=False),
        call([1], [2], session="e-0"),
    )
    await client.put_group(group("a", size=2))
    for index, outcome in enumerate(
        (
            Outcome(status="completed", rewards=[Reward(name="total", value=0.5, explanation="fair")], calls=5),
            Outcome(status="failed", reason="agent: exit code 3", calls=0),
        )
    ):
        await client.put_attempt(Attempt(id=f"a-{index}", group="a", rollout=index))
        await client.put_outcome(f"a-{index}", outcome)
    ask = {"name": "thumb", "value": 1.0, "by": "alice", "id": "vote", "call": root.id}
    assert (await ingest.ask("POST", "/api/sessions/a-0/rewards", json=ask))[0] == 200
    await finish(client, group("e", size=1, mode="eval"))


async def exported(tmp_path, name: str, format_: Format, **source) -> Path:
    out = tmp_path / name
    await asyncio.to_thread(export, run="run-1", out=out, format=format_, **source)
    return out


async def test_a_run_is_exported_alike_from_its_file_and_over_http(ingest, client, tmp_path, capsys):
    await captured(ingest, client)
    from_file = await exported(tmp_path, "file", Format.JSONL, data=tmp_path / "data")
    over_http = await exported(tmp_path, "http", Format.JSONL, url=ingest.url)
    text = (from_file / "trajectories.jsonl").read_text()
    assert text == (over_http / "trajectories.jsonl").read_text()
    assert capsys.readouterr().out.count("5 rows of 3 rollouts written to") == 2
    first, branch, joined, failed, judged = map(json.loads, text.splitlines())
    assert first["ids"] == [1, 2, 3, 4, 5]
    assert first["logprobs"] == [0, 0, Float32s([-0.1])[0], 0, -0.125]
    assert [item["content"] for item in first["messages"]] == ["2+2?", "4", "sure?", "yes"]
    assert (first["reward"], first["rewards"], first["fields"]) == (0.5, {"total": 0.5}, {"a": 1})
    assert branch["messages"] == [*first["messages"][:2], {}]
    assert (branch["loss_mask"], joined["agent"]) == ([0, 0, 0, 0, 1], "critic")
    assert (failed["sequence"], failed["reason"], failed["ids"]) == (-1, "agent: exit code 3", [])
    assert (judged["mode"], judged["session"]) == ("eval", "e-0")


async def test_the_only_run_need_not_be_named_and_several_are_listed(ingest, client, tmp_path):
    await captured(ingest, client)
    for name, where in (("file", {"data": tmp_path / "data"}), ("http", {"url": ingest.url})):
        await asyncio.to_thread(export, out=tmp_path / name, **where)
    assert (tmp_path / "file/trajectories.jsonl").read_text() == (tmp_path / "http/trajectories.jsonl").read_text()
    await client.put_group(Group(id="other", run="run-2", task=Task(id="t", fields={}), size=2))
    with pytest.raises(RunError, match="it has run-1, run-2; say which: --run NAME"):
        await asyncio.to_thread(export, out=tmp_path / "out", url=ingest.url)


async def test_sessions_in_no_group_are_counted_where_they_are_left_out(ingest, client, tmp_path, capsys):
    await ingest.send(call([1], [2], session="people-1"), call([1], [2], session="people-2"))
    with pytest.raises(RunError, match="it has no run: its sessions are in no group, since nobody planned them"):
        await asyncio.to_thread(export, out=tmp_path / "out", url=ingest.url)
    await captured(ingest, client)
    for name, where in (("file", {"data": tmp_path / "data"}), ("http", {"url": ingest.url})):
        await asyncio.to_thread(export, out=tmp_path / name, **where)
        said = "2 of the sessions there are in no group, so of no run, and are left out\n"
        assert capsys.readouterr().err == said


async def test_where_nothing_is_captured_there_is_no_run_to_export(ingest, tmp_path):
    with pytest.raises(RunError, match=r"it has no run: nothing is captured there$"):
        await asyncio.to_thread(export, out=tmp_path / "out", url=ingest.url)


async def test_parquet_holds_the_same_rows_as_json_lines(ingest, client, tmp_path):
    await captured(ingest, client)
    lines = await exported(tmp_path, "lines", Format.JSONL, data=tmp_path / "data")
    table = await exported(tmp_path, "table", Format.PARQUET, data=tmp_path / "data")
    rows = parquet.read_table(table / "trajectories.parquet").to_pylist()
    for row in rows:
        for name in ("fields", "rewards", "messages"):
            row[name] = json.loads(row[name])
    assert rows == [json.loads(line) for line in (lines / "trajectories.jsonl").read_text().splitlines()]


async def test_a_hub_dataset_has_splits_and_a_card_that_names_them(ingest, client, tmp_path):
    await captured(ingest, client)
    out = await exported(tmp_path, "hub", Format.HF, data=tmp_path / "data")
    card = (out / "README.md").read_text()
    patterns = dict(re.findall(r"split: (\w+)\n    path: (\S+)", card))
    found = {split: [parquet.read_table(path) for path in out.glob(pattern)] for split, pattern in patterns.items()}
    assert {split: [table.num_rows for table in tables] for split, tables in found.items()} == {
        "train": [4],
        "test": [1],
    }
    assert found["train"][0].schema == found["test"][0].schema


async def test_an_export_refuses_what_it_cannot_do_whole(ingest, client, tmp_path, monkeypatch):
    await captured(ingest, client)
    data = tmp_path / "data"
    with pytest.raises(RunError, match="it has run-1; none is called 'nowhere'"):
        await asyncio.to_thread(export, run="nowhere", out=tmp_path / "out", data=data)
    with pytest.raises(ConfigError, match="not an empty directory"):
        await asyncio.to_thread(export, run="run-1", out=tmp_path, data=data)
    for wrong in ({}, {"data": data, "url": ingest.url}):
        with pytest.raises(ConfigError, match="one of --data DIR and --url URL"):
            export(run="run-1", out=tmp_path / "out", **wrong)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ConfigError, match="pip install"):
            await asyncio.to_thread(export, run="run-1", out=tmp_path / "out", data=data, format=Format.HF)
    await ingest.store.write(
        lambda connection: connection.execute("DELETE FROM span_index WHERE seq = (SELECT min(seq) FROM spans)")
    )
    with pytest.raises(NexrlError, match="'a-0': 4 of 5 calls are still stored"):
        await asyncio.to_thread(export, run="run-1", out=tmp_path / "out", data=data)
    assert list((tmp_path / "out").iterdir()) == []


async def test_a_replayed_run_is_the_same_in_another_ingest_however_often_it_is_sent(ingest, client, tmp_path, capsys):
    await captured(ingest, client)
    other = EmbeddedStore(tmp_path / "other")
    runner = web.AppRunner(make_app(store=other, admin_key=ADMIN_KEY), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    for source in ({"data": tmp_path / "data"}, {"url": ingest.url}):
        await asyncio.to_thread(replay, run="run-1", to=url, **source)
    assert capsys.readouterr().out.count(f"2 groups and 6 calls of run 'run-1' sent to {url}") == 2
    async with aiohttp.ClientSession() as http:
        target = Ingest(url, http, other)
        for path in ("sessions/a-0", "sessions/a-0/trajectory", "sessions/a-0/rewards", "sessions/e-0"):
            assert await target.ask("GET", f"/api/{path}") == await ingest.ask("GET", f"/api/{path}"), path
        there = await IngestClient(url, ADMIN_KEY, http).groups("run-1")
    assert there == await client.groups("run-1")
    await runner.cleanup()
    other.close()


async def test_assembling_again_says_what_differs_from_an_export(ingest, client, tmp_path, capsys):
    await captured(ingest, client)
    file = await exported(tmp_path, "before", Format.JSONL, data=tmp_path / "data") / "trajectories.jsonl"
    await asyncio.to_thread(replay, run="run-1", data=tmp_path / "data", against=file)
    assert "every sequence is as in" in capsys.readouterr().out
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["loss_mask"][0] = 1
    rows[2]["session"] = "elsewhere"
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(RunError, match="3 sequences of run 'run-1' differ"):
        await asyncio.to_thread(replay, run="run-1", data=tmp_path / "data", against=file)
    assert capsys.readouterr().out.splitlines() == [
        "a-0 sequence 0: loss_mask differ (5 tokens, now 5)",
        "a-0 sequence 2: is new",
        "elsewhere sequence 2: is gone",
    ]
    (tmp_path / "bad").write_text("{}")
    for wrong, said in (({"against": tmp_path / "bad"}, "nexrl export"), ({}, "one of --to URL and --against FILE")):
        with pytest.raises(ConfigError, match=said):
            await asyncio.to_thread(replay, run="run-1", data=tmp_path / "data", **wrong)


def test_a_row_that_is_the_same_differs_in_nothing():
    lists = ("calls", "ids", "loss_mask", "logprobs", "weight_versions", "temperatures", "messages")
    empty = {name: [] for name in lists}
    words = dict.fromkeys(("run", "group", "task", "session", "status", "reason", "policy"), "x")
    row = Row(**words, **empty, mode="train", fields={}, rollout=0, reward=None, rewards={}, sequence=0, agent=None)
    assert differences(row, row) == []
    assert differences(row, msgspec.structs.replace(row, reason="y")) == ["reason differ (0 tokens, now 0)"]
