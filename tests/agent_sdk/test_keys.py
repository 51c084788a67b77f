import stat

import pytest

from nexrl.errors import AccessError, ConfigError
from nexrl.keys import admin_key, attempt_key, attempt_of, is_admin, new_attempt_id

ADMIN = "an-admin-key-of-decent-length"


def test_an_attempt_key_names_its_attempt_and_no_other():
    key = attempt_key("run-s00001-g000-r01-abc", ADMIN)
    assert attempt_of(key, ADMIN) == "run-s00001-g000-r01-abc"
    with pytest.raises(AccessError, match="signature"):
        attempt_of(key.replace("r01", "r02"), ADMIN)
    with pytest.raises(AccessError, match="signature"):
        attempt_of(key, "another-admin-key-altogether")
    with pytest.raises(AccessError, match="signature"):
        attempt_of("nxr-nothing", ADMIN)


def test_other_peoples_keys_are_not_attempt_keys():
    assert attempt_of("sk-proj-123", ADMIN) is None
    assert not is_admin("sk-proj-123", ADMIN)
    assert is_admin(ADMIN, ADMIN)


@pytest.mark.parametrize("attempt", ["", "a/b", "a b", "a.b", "x" * 201, "ü"])
def test_an_attempt_id_must_fit_urls_and_file_names(attempt):
    with pytest.raises(AccessError, match="attempt id"):
        attempt_key(attempt, ADMIN)


def test_attempt_ids_of_the_same_rollout_differ():
    assert len({new_attempt_id("r") for _ in range(100)}) == 100


def test_the_admin_key_is_kept_where_only_its_owner_reads_it(tmp_path, monkeypatch):
    monkeypatch.delenv("NEXRL_ADMIN_KEY", raising=False)
    key = admin_key(tmp_path / "data")
    assert admin_key(tmp_path / "data") == key
    assert stat.S_IMODE((tmp_path / "data" / "admin.key").stat().st_mode) == 0o600
    monkeypatch.setenv("NEXRL_ADMIN_KEY", "x" * 20)
    assert admin_key(tmp_path / "data") == "x" * 20


def test_a_missing_or_short_admin_key_says_what_to_do(monkeypatch):
    monkeypatch.delenv("NEXRL_ADMIN_KEY", raising=False)
    with pytest.raises(ConfigError, match="set NEXRL_ADMIN_KEY"):
        admin_key(None)
    monkeypatch.setenv("NEXRL_ADMIN_KEY", "short")
    with pytest.raises(ConfigError, match="use 16 or more"):
        admin_key(None)
