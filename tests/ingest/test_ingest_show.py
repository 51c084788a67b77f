"""`nexrl sessions` and `nexrl trajectories`, from the file of a running ingest or a stopped one."""

import asyncio
import io
import json
import re
import shutil

import pytest
from ingest_world import ADMIN_KEY, call, finish, group
from rich.console import Console
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from nexrl.errors import ConfigError
from nexrl.records import Reward
from nexrl_ingest.assembly.sequences import sequences
from nexrl_ingest.commands import show


@pytest.fixture
def shown(monkeypatch):
    """What the commands print, on a wide terminal with colours."""
    out = io.StringIO()
    monkeypatch.setattr(show, "Console", lambda: Console(file=out, width=200, force_terminal=True))
    return lambda: re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())


async def captured(ingest, client) -> None:
    root = call([1, 2], [3], session="group-1-0")
    await ingest.send(root, call([4], [5, 6], session="group-1-0", parent=root.id, drift="edited"))
    await finish(client, group(size=1), rewards=[Reward(name="correct", value=0.5)], reason="a [bold] reason")
    await ingest.send(call([1], [2], session="external"))


@pytest.mark.parametrize("place", ["data", "run/ingest"])
async def test_sessions_are_a_table_with_status_reward_calls_tokens_and_drift(ingest, client, tmp_path, shown, place):
    await captured(ingest, client)
    ingest.store.close()
    if place != "data":
        shutil.copytree(tmp_path / "data", tmp_path / place)
    await asyncio.to_thread(show.sessions, str(tmp_path / place.split("/")[0]))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown().splitlines() if "│" in line]
    assert rows == [
        ["group-1-0", "completed (a [bold] reason)", "correct=0.5", "2", "1", "2.0", "3/6", "edited"],
        ["external", "open", "-", "1", "1", "1.0", "1/2", "-"],
    ]


NAME = "support-e00003-t0000-r00-1c74e472012b8362@eval"


async def a_long_name(ingest, client) -> None:
    await ingest.send(call([1], [2], session=NAME))
    reward = {"id": "r", "name": "fewer_guesses", "value": 0.5}
    assert (await ingest.ask("POST", f"/api/sessions/{NAME}/rewards", json=reward))[0] == 200
    await captured(ingest, client)


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (40, ["session", "status"]),
        (80, ["session", "status"]),
        (90, ["session", "status", "reward"]),
        (110, ["session", "status", "reward", "calls"]),
    ],
)
async def test_in_a_narrow_terminal_columns_go_and_a_session_s_name_stays_whole(
    ingest, client, tmp_path, monkeypatch, width, columns
):
    await a_long_name(ingest, client)
    out = io.StringIO()
    monkeypatch.setattr(show, "Console", lambda: Console(file=out, width=width, force_terminal=True))
    await asyncio.to_thread(show.sessions, str(tmp_path / "data"))
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    [heading] = [line for line in text.splitlines() if "┃" in line]
    assert [cell.strip() for cell in heading.split("┃")[1:-1]] == columns
    assert sum(NAME in line for line in text.splitlines()) == 1
    assert re.search(r"no room for: sequences, merge", text)


async def test_where_there_is_no_terminal_a_session_is_one_line(ingest, client, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    await a_long_name(ingest, client)
    await asyncio.to_thread(show.sessions, str(tmp_path / "data"))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [NAME, "open", "fewer_guesses=0.5", "1", "1", "1.0", "1/2", "-"] in rows
    assert sum(bool(row) for row in rows) == 3


async def test_as_json_a_line_is_a_session_as_the_list_over_http_has_it(ingest, client, tmp_path, capsys):
    await captured(ingest, client)
    await asyncio.to_thread(show.sessions, str(tmp_path / "data"), json=True)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    _, listed = await ingest.ask("GET", "/api/sessions")
    assert printed == listed["sessions"][::-1]
    assert len(printed) == 2


async def test_tags_have_a_column_where_there_are_some(ingest, client, tmp_path, shown):
    await captured(ingest, client)
    ask = {"name": "variant", "value": "b"}
    assert (await ingest.ask("POST", "/api/sessions/external/tags", json=ask))[0] == 200
    await asyncio.to_thread(show.sessions, str(tmp_path / "data"))
    last = [line.split("│")[-2].strip() for line in shown().splitlines() if "│" in line]
    assert last == ["-", "variant=b"]


async def test_a_running_ingest_is_read_from_its_file_and_over_http_alike(ingest, client, tmp_path, shown, monkeypatch):
    monkeypatch.setenv("NEXRL_ADMIN_KEY", ADMIN_KEY)
    await captured(ingest, client)
    await asyncio.to_thread(show.sessions, str(tmp_path / "data"))
    from_file = shown().splitlines()[1:]
    await asyncio.to_thread(show.sessions, ingest.url)
    assert len(from_file) > 3
    assert shown().splitlines()[len(from_file) + 2 :] == from_file


async def test_a_trajectory_shows_its_sequences_as_ids_or_as_text(ingest, client, tmp_path, shown):
    await captured(ingest, client)
    await asyncio.to_thread(show.trajectories, str(tmp_path / "data"), "group-1-0")
    assert "sequence 0: 6 tokens, 3 sampled" in shown()
    assert "1 2 3 4 5 6" in shown()
    Tokenizer(WordLevel({f"w{index}": index for index in range(9)}, "w0")).save(str(tmp_path / "tokenizer.json"))
    await asyncio.to_thread(show.trajectories, str(tmp_path / "data"), model=tmp_path, limit=1)
    assert "w1w2" in shown()
    assert "external" in shown()


async def run_directory(ingest, client, folder, recipe):
    """A run without a checkpoint, whose recipe says where its models are."""
    await ingest.send(call([1], [2], session="group-1-0"))
    await ingest.send(call([1], [2], session="group-1-0", policy="critic"))
    await finish(client, group(size=1))
    ingest.store.close()
    shutil.copytree(folder / "data", folder / "run/ingest")
    (folder / "run/recipe.yaml").write_text(recipe)
    for name in ("own", "critic"):
        (folder / name).mkdir()
        words = {f"{name}{index}": index for index in range(9)}
        Tokenizer(WordLevel(words, f"{name}0")).save(str(folder / name / "tokenizer.json"))


async def test_before_its_first_checkpoint_a_run_is_text_by_the_models_that_its_recipe_names(
    ingest, client, tmp_path, shown
):
    recipe = (
        f"{{folder: {tmp_path}, steps: 3, model: {{path: own, make: m.py}}, policies: {{critic: {{path: critic}}}}}}"
    )
    await run_directory(ingest, client, tmp_path, recipe)
    await asyncio.to_thread(show.trajectories, str(tmp_path / "run"))
    assert "own1own2" in shown()
    assert "critic1critic2" in shown()
    assert "--model DIR" not in shown()


async def test_where_there_is_no_tokenizer_it_is_said_once_how_there_would_be_text(ingest, client, tmp_path, shown):
    await run_directory(ingest, client, tmp_path, f"{{folder: {tmp_path}, model: {{path: elsewhere}}}}")
    await asyncio.to_thread(show.trajectories, str(tmp_path / "run"))
    assert "1 2" in shown()
    assert shown().count("--model DIR, the directory of the model or its tokenizer.json, gives text") == 1


async def test_a_recipe_that_names_no_model_is_told_with_what_to_give(ingest, client, tmp_path):
    await run_directory(ingest, client, tmp_path, "steps: 3")
    with pytest.raises(ConfigError, match=r"run/recipe\.yaml names no model: .*; give its directory: --model DIR"):
        await asyncio.to_thread(show.trajectories, str(tmp_path / "run"))


@pytest.mark.parametrize("command", [show.sessions, show.trajectories], ids=["sessions", "trajectories"])
async def test_where_not_all_sessions_are_shown_it_is_said(ingest, client, tmp_path, shown, command):
    await captured(ingest, client)
    await asyncio.to_thread(command, str(tmp_path / "data"), limit=2)
    assert "there are more" not in shown()
    await asyncio.to_thread(command, str(tmp_path / "data"), limit=1)
    assert "these are the latest 1; there are more: --limit N" in shown()


async def test_a_list_as_json_that_is_cut_off_says_so_beside_the_lines(ingest, client, tmp_path, capsys):
    await captured(ingest, client)
    await asyncio.to_thread(show.sessions, str(tmp_path / "data"), limit=1, json=True)
    printed = capsys.readouterr()
    assert [json.loads(line)["session"] for line in printed.out.splitlines()] == ["external"]
    assert printed.err.startswith("these are the latest 1; there are more")


async def test_chains_are_a_tree_with_each_branch_under_the_chain_it_leaves(ingest, tmp_path, shown):
    root = call([1], [2], id="a" * 16)
    trunk = call([3], [4], id="b" * 16, parent=root.id)
    branch = call([5], [6], id="c" * 16, parent=root.id)
    other = call([9], [9], id="d" * 16)
    await ingest.send(root, trunk, branch, call([7], [8], id="e" * 16, parent=branch.id), other)
    await asyncio.to_thread(show.trajectories, str(tmp_path / "data"), "session-1")
    lines = [line.strip("│ ").rstrip() for line in shown().splitlines()[1:4]]
    assert lines == [
        "0: aaaaaaaa → bbbbbbbb",
        "└── 1: cccccccc → eeeeeeee (from aaaaaaaa)",
        "2: dddddddd",
    ]


async def test_a_session_that_is_not_there_is_named(ingest, client, tmp_path):
    await captured(ingest, client)
    with pytest.raises(ConfigError, match="session 'nobody' is not in"):
        await asyncio.to_thread(show.trajectories, str(tmp_path / "data"), "nobody")


def test_sampled_tokens_are_set_off_from_their_context():
    root = call([1], [2])
    [sequence] = sequences([root, call([3], [4, 5], parent=root.id)])
    text = show.coloured(sequence, lambda ids: "".join(map(str, ids)))
    styles = [(text.plain[span.start : span.end], span.style) for span in text.spans]
    assert styles == [("1", show.CONTEXT), ("2", show.SAMPLED), ("3", show.CONTEXT), ("45", show.SAMPLED)]


def test_without_colours_sampled_tokens_stand_between_marks():
    [sequence] = sequences([call([1], [2])])
    assert show.coloured(sequence, lambda ids: "".join(map(str, ids)), marks=True).plain == "1⟦2⟧"


@pytest.mark.parametrize("command", [show.sessions, show.trajectories], ids=["sessions", "trajectories"])
async def test_where_nothing_is_captured_it_is_said_how_something_would_be(store, tmp_path, shown, command):
    await asyncio.to_thread(command, str(tmp_path / "data"))
    assert re.search(r"no model call is captured in .*OPENAI_BASE_URL", " ".join(shown().split()))


def test_a_directory_without_a_store_and_a_model_without_tokenizer_are_named(tmp_path):
    with pytest.raises(ConfigError, match=f"{tmp_path}/ingest.sqlite: no such file"):
        show.sessions(str(tmp_path))
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        show.trajectories(str(tmp_path), model=tmp_path)
    (tmp_path / "ingest.sqlite").write_text("no database at all, but something else that is long enough")
    with pytest.raises(ConfigError, match="file is not a database"):
        show.sessions(str(tmp_path))
