import stat

import pytest
import typer

from nexrl.cli import key as key_command
from nexrl.errors import AccessError, ConfigError
from nexrl.keys import (
    admin_key,
    attempt_key,
    attempt_of,
    holder_of,
    is_admin,
    new_attempt_id,
    read_key,
    reward_grant,
    trainer_key,
)

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
    with pytest.raises(ConfigError, match=r"set NEXRL_ADMIN_KEY .*=\$\(cat DATA/admin\.key\)$"):
        admin_key(None)
    monkeypatch.setenv("NEXRL_ADMIN_KEY", "short")
    with pytest.raises(ConfigError, match="use 16 or more"):
        admin_key(None)


def test_a_derived_key_names_its_kind_and_its_session_and_no_other_admin_key_makes_it():
    assert holder_of(ADMIN, ADMIN) == ("admin", None)
    assert holder_of(attempt_key("a-1", ADMIN), ADMIN) == ("attempt", "a-1")
    assert holder_of(trainer_key(ADMIN), ADMIN) == ("trainer", None)
    assert holder_of(read_key(ADMIN), ADMIN) == ("read", None)
    assert holder_of(reward_grant("a:1@eval", ADMIN), ADMIN) == ("reward", "a:1@eval")
    assert holder_of("sk-somebody-elses", ADMIN) is None
    for forged in (
        trainer_key("another-admin-key-altogether"),
        read_key(ADMIN).replace("read", "trainer"),
        reward_grant("a-1", ADMIN).replace("a-1", "a-2"),
        "nxk-",
        "nxk-admin.",
    ):
        with pytest.raises(AccessError, match="signature is wrong"):
            holder_of(forged, ADMIN)


def run_command(arguments: list[str]) -> None:
    app = typer.Typer()
    app.command()(key_command)
    app(arguments, standalone_mode=False)


@pytest.mark.parametrize(
    ("arguments", "made"),
    [
        (["a-1"], attempt_key("a-1", ADMIN)),
        (["--reward", "a-1"], reward_grant("a-1", ADMIN)),
        (["--trainer"], trainer_key(ADMIN)),
        (["--read-only"], read_key(ADMIN)),
    ],
)
def test_the_key_command_prints_each_kind(arguments, made, monkeypatch, capsys):
    monkeypatch.setenv("NEXRL_ADMIN_KEY", ADMIN)
    run_command(arguments)
    assert capsys.readouterr().out == f"{made}\n"


@pytest.mark.parametrize("arguments", [[], ["a-1", "--trainer"], ["--reward", "a-1", "--read-only"]])
def test_the_key_command_makes_one_key_at_a_time(arguments, monkeypatch):
    monkeypatch.setenv("NEXRL_ADMIN_KEY", ADMIN)
    with pytest.raises(ConfigError, match="give one of ATTEMPT"):
        run_command(arguments)
