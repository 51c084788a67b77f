"""Bodies beside the database: whatever a commit named is whole, whenever the process or the disk gave up."""

import errno
import os
import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_world import call, request_of

from nexrl_ingest import span_log
from nexrl_ingest.otlp.spans import batch
from nexrl_ingest.refusals import UnavailableError
from nexrl_ingest.sessions.retention import DAY_NS, Limits, keep_within
from nexrl_ingest.store import reclaiming, segments
from nexrl_ingest.store.embedded import FILE, EmbeddedStore, read_only
from nexrl_ingest.store.segments import Segments

LONG = range(2000)


def append(now_ns: int, *calls):
    [block] = batch(request_of(*calls), None).blocks
    return lambda connection: span_log.append(connection, block, now_ns)


async def sent(store, session: str, now_ns: int = 1):
    """Store a call whose body takes some room; return it."""
    made = call([int.from_bytes(os.urandom(3)) for _ in LONG], [1], session=session)
    await store.write(append(now_ns, made))
    return made


async def calls(store, session: str):
    return await store.read(lambda connection: span_log.calls_of(connection, session))


def files(store) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(store.segments.directory.glob("*"))}


async def test_a_body_is_on_the_disk_before_anybody_can_see_that_it_is_named(store, monkeypatch):
    seen = []

    def looked(file: int, fdatasync=os.fdatasync) -> None:
        fdatasync(file)
        with closing(sqlite3.connect(store.path)) as raw:
            seen.append((raw.execute("SELECT count(*) FROM blocks").fetchone()[0], os.fstat(file).st_size))

    monkeypatch.setattr(os, "fdatasync", looked)
    await sent(store, "a")
    [size] = files(store).values()
    assert seen == [(0, size)]
    await store.write(lambda connection: connection.execute("DELETE FROM rules"))
    assert len(seen) == 1, "what writes no body waits for none"


async def test_opening_cuts_off_what_no_commit_named_and_begins_a_file_of_its_own(open_store):
    store = open_store()
    kept = await sent(store, "a")
    store.close()
    before = files(store)
    [name] = before
    with (store.segments.directory / name).open("ab") as file:
        file.write(b"half of a body")
    (store.segments.directory / "00000007.blocks").write_bytes(b"a body whose commit never came")
    store = open_store()
    assert files(store) == before
    again = await sent(store, "a")
    assert await calls(store, "a") == [kept, again]
    assert {key: files(store)[key] for key in before} == before
    assert len(files(store)) == 2
    store.close()


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
async def test_a_body_that_is_not_what_was_written_is_never_served(store, damage):
    await sent(store, "a")
    [path] = store.segments.directory.iterdir()
    whole = path.read_bytes()
    match damage:
        case "changed":
            path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
        case "cut":
            path.write_bytes(whole[:-1])
        case _:
            path.unlink()
    with pytest.raises(UnavailableError, match=r"00000001.blocks (is damaged at byte 0|cannot be read)"):
        await calls(store, "a")
    other = await sent(store, "b") if damage != "gone" else None
    assert await calls(store, "b") == ([other] if other else [])


@pytest.mark.parametrize("fails", ["pwrite", "fdatasync"])
async def test_a_disk_that_refuses_a_body_acknowledges_nothing_and_goes_on_when_it_takes_them_again(
    store, monkeypatch, fails
):
    kept = [await sent(store, "a")]
    real = getattr(os, fails)

    def refuse(file: int, *given: object) -> int:
        if given:
            real(file, b"torn", given[1])
        raise OSError(errno.ENOSPC, "No space left on device")

    for _ in range(3):
        monkeypatch.setattr(os, fails, refuse)
        with pytest.raises(UnavailableError, match=r"cannot be written: .*No space left on device"):
            await sent(store, "a")
        assert await calls(store, "a") == kept
        monkeypatch.setattr(os, fails, real)
        kept.append(await sent(store, "a"))
        assert await calls(store, "a") == kept


def test_what_a_transaction_wrote_that_failed_is_written_over_unless_its_sync_was_tried(tmp_path):
    files = Segments(tmp_path / "blocks")
    files.append(b"kept")
    files.sync()
    files.append(b"given up")
    files.rewind()
    assert files.append(b"last").start == 4
    files.sync()
    files.rewind()
    assert files.append(b"behind it").start == 8
    files.close()


async def test_spans_that_come_again_take_no_room(store):
    made = call(LONG, [1], session="a")
    for now_ns in range(5):
        await store.write(append(now_ns + 1, made))
    after = await sent(store, "b")
    [size] = files(store).values()
    used = await store.read(lambda connection: connection.fetch("SELECT sum(length) FROM blocks"))
    assert used == [(size,)]
    assert await calls(store, "a") == [made]
    assert await calls(store, "b") == [after]


async def test_files_are_bounded_and_a_longer_body_has_one_to_itself(store, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 20_000)
    made = [await sent(store, "a") for _ in range(7)]
    made.append(call([int.from_bytes(os.urandom(3)) for _ in range(20_000)], [1], session="a"))
    await store.write(append(1, made[-1]))
    sizes = list(files(store).values())
    assert len(sizes) >= 4
    assert max(sizes[:-1]) <= 20_000 < sizes[-1]
    assert await calls(store, "a") == made


async def test_what_is_forgotten_goes_file_by_file_and_what_is_left_between_moves_together(store, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 40_000)
    old = [await sent(store, f"old-{number}", 1) for number in range(15)]
    kept = await sent(store, "kept", 9 * DAY_NS)
    old += [await sent(store, f"old-{number}", 1) for number in range(15, 30)]
    young = [await sent(store, f"young-{number}", 9 * DAY_NS) for number in range(4)]
    before = sum(files(store).values())
    await keep_within(store, Limits(age_ns=DAY_NS), 9 * DAY_NS)
    for made in (kept, *young):
        assert await calls(store, made.session) == [made]
    assert [await calls(store, made.session) for made in old] == [[]] * len(old)
    used = await store.read(lambda connection: connection.fetch("SELECT sum(length) FROM blocks")[0][0])
    assert used <= sum(files(store).values()) <= 2 * used < before / 2
    await keep_within(store, Limits(age_ns=1), 20 * DAY_NS)
    assert files(store) == {}
    assert await sent(store, "again") in await calls(store, "again")


async def test_a_reader_of_an_older_moment_finds_what_was_forgotten_since(store, monkeypatch):
    monkeypatch.setattr(reclaiming, "PATIENCE_MS", 10)
    made = await sent(store, "old")
    with read_only(store.path.parent / FILE) as moment:
        assert span_log.count_calls(moment, "old") == 1
        await keep_within(store, Limits(age_ns=1), 9 * DAY_NS)
        assert await calls(store, "old") == []
        assert span_log.calls_of(moment, "old") == [made]
    assert files(store) != {}
    await store.reclaim()
    assert files(store) == {}


STEPS = st.lists(
    st.tuples(st.sampled_from(["append", "take back", "commit", "fail", "fail late", "crash"]), st.binary(max_size=9)),
    max_size=40,
)


@settings(max_examples=150, deadline=None, database=None)
@given(STEPS)
def test_whatever_was_committed_is_read_back_whole_after_any_steps_and_crashes(tmp_path_factory, steps):
    directory = tmp_path_factory.mktemp("segments") / "blocks"
    named: dict[segments.Place, bytes] = {}
    pending: dict[segments.Place, bytes] = {}
    maybe: dict[segments.Place, bytes] = {}
    """Of a commit that failed: it may turn out to be durable until another one succeeds."""
    files = Segments(directory)
    for step, body in steps:
        match step:
            case "append":
                pending[files.append(body + b".")] = body + b"."
            case "take back":
                files.take_back(files.append(body + b"."))
            case "commit":
                files.sync()
                named, pending, maybe = named | pending, {}, {}
                files.settle()
            case "fail" | "fail late":
                if step == "fail late":
                    files.sync()
                    maybe = maybe or pending
                pending = {}
                files.rewind()
                files.settle()
            case _:
                files.close()
                named, pending, maybe = named | maybe, {}, {}
                files = Segments(directory)
                ends = {place.segment: 0 for place in named}
                for place in named:
                    ends[place.segment] = max(ends[place.segment], place.start + place.length)
                files.cut(ends)
        assert [files.read(place) for place in (*named, *maybe)] == [*named.values(), *maybe.values()]
    files.close()


def test_a_directory_of_two_openers_has_a_file_for_each(tmp_path):
    first, second = EmbeddedStore(tmp_path), EmbeddedStore(tmp_path)
    places = [one.segments.append(b"body of " + name) for one, name in ((first, b"first"), (second, b"second"))]
    assert [first.segments.read(place) for place in places] == [b"body of first", b"body of second"]
    first.close()
    second.close()
