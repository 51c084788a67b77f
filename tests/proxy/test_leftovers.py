"""What a proxy with another number of workers left on disk is delivered by this one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexrl.errors import ConfigError
from nexrl.records import encode
from nexrl_proxy.leftovers import bring_in, spool_names
from nexrl_proxy.recorder import Kept
from nexrl_proxy.spool import DEAD_LETTERS, Spool
from nexrl_proxy.workers.pinning import owner_of

SESSIONS = [f"a-{number}" for number in range(24)]


@given(st.integers(1, 4), st.integers(1, 4), st.lists(st.sampled_from(SESSIONS), max_size=70))
def test_leftovers_go_where_their_sessions_live(tmp_path_factory, before, after, sessions):
    data = tmp_path_factory.mktemp("data")
    frames = [encode(Kept(session, b"span %d" % number)) for number, session in enumerate(sessions)]
    fill(data, spool_names(before), sessions, frames)
    bring_in(data, after)
    found = []
    for worker, name in enumerate(spool_names(after)):
        spool = Spool(data / name)
        for frame in spool.left_over():
            found.append(frame)
            assert owner_of(sessions[frames.index(frame)], after) == worker
        spool.close()
    assert sorted(found) == sorted(frames)
    assert len(list(data.iterdir())) == after


def fill(data, names, sessions, frames):
    """Leave frames where workers with these spools would."""
    for worker, name in enumerate(names):
        spool = Spool(data / name)
        for session, frame in zip(sessions, frames, strict=True):
            if owner_of(session, len(names)) == worker:
                spool.append(frame)
        spool.close()


def test_dead_letters_stay_where_they_are(tmp_path):
    spool = Spool(tmp_path / "spool-0-of-2")
    spool.bury(b"nobody takes it")
    spool.close()
    bring_in(tmp_path, 1)
    assert (tmp_path / "spool-0-of-2" / DEAD_LETTERS).exists()


def test_spans_are_not_taken_from_a_proxy_that_runs(tmp_path):
    spool = Spool(tmp_path / "spool")
    with pytest.raises(ConfigError, match="another proxy uses it"):
        bring_in(tmp_path, 2)
    spool.close()
