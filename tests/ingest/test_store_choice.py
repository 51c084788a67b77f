"""`--database`: which store it means, and what is said where there is none; never a password."""

import sys

import pytest

from nexrl.errors import ConfigError
from nexrl_ingest.refusals import UnavailableError
from nexrl_ingest.store.choice import open_store
from nexrl_ingest.store.embedded import EmbeddedStore
from nexrl_ingest.store.postgres import PostgresStore, where

PASSWORD = "hunter2%zz"


def test_without_a_database_it_is_the_file_in_the_directory(tmp_path):
    store = open_store(tmp_path, None)
    assert isinstance(store, EmbeddedStore)
    store.close()


def test_with_a_database_it_is_postgresql_and_the_directory_stays_empty(tmp_path, postgres):
    store = open_store(tmp_path, postgres.new_database())
    assert isinstance(store, PostgresStore)
    store.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://root:{PASSWORD}@host/name",
        f"host=db password={PASSWORD}",
        f"postgresql://user:{PASSWORD}@host/name",
        "postgresql://user:hunter2@127.0.0.1:1/name",
        "postgresql://user:hunter2@no-such-host.invalid/name",
    ],
)
def test_a_database_that_cannot_be_used_is_one_clear_line_without_the_password(tmp_path, url):
    with pytest.raises(ConfigError) as raised:
        open_store(tmp_path, url)
    said = str(raised.value)
    assert "hunter2" not in said
    assert "postgresql://USER:PASSWORD@HOST:PORT/NAME" in said or "URL of a database that can be written" in said
    assert "\n" not in said.strip()


def test_a_database_is_named_without_its_password():
    assert where("postgresql://me:hunter2@db:6543/traces") == "PostgreSQL database 'traces' at db:6543"


def test_without_psycopg_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "nexrl_ingest.store.postgres", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'nexrl\[postgres\]'"):
        open_store(tmp_path, "postgresql://me@db/traces")


async def test_text_that_postgresql_cannot_store_is_refused_by_name(postgres):
    store = PostgresStore(postgres.new_database())
    with pytest.raises(Exception, match="holds a NUL character"):
        await store.write(lambda connection: connection.fetch("SELECT ?", ("a\0b",)))
    store.close()


async def test_a_database_that_was_taken_away_is_unavailable_not_a_bug(postgres):
    import psycopg

    url = postgres.new_database()
    store = PostgresStore(url)
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as raw:
        raw.execute(f"DROP DATABASE {url.split('/')[3].split('?')[0]} WITH (FORCE)")
    for asked in (store.write, store.read):
        with pytest.raises(UnavailableError, match="try again"):
            await asked(lambda connection: connection.fetch("SELECT 1"))
    store.close()
