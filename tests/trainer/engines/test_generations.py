"""What an update of an engine consists of, by kind and generation."""

from pathlib import Path

import pytest

from nexrl.errors import ConfigError
from nexrl_trainer.engines.generations import EMBEDDED, Call, Update, check, sglang, update

LOADED = {"model_path": "/w/v000007", "weight_version": "7"}


@pytest.mark.parametrize(
    ("version", "names_tokens"),
    [("0.5.13", False), ("0.5.22.post2", False), ("0.5.23", True), ("0.5.23.post1", True), ("0.10.0", True)],
)
def test_sglang_names_the_weights_of_every_token_from_0_5_23_on(version, names_tokens):
    generation = sglang(version)
    assert (generation.names_tokens, generation.pauses) == (names_tokens, names_tokens)


@pytest.mark.parametrize("version", ["0.5.12", "0.4.99", "None", "main"])
def test_an_sglang_whose_updates_nobody_has_seen_is_refused(version):
    with pytest.raises(ConfigError, match=rf"SGLang {version}: .*0\.5\.13.*upgrade"):
        sglang(version)


def test_weights_come_under_running_requests_only_where_tokens_name_them():
    check(EMBEDDED, "in_flight")
    check(sglang("0.5.23"), "in_flight")
    check(sglang("0.5.13"), "drained")
    with pytest.raises(ConfigError, match=r"in_flight: SGLang 0\.5\.13 names one .* set engine\.updates=drained"):
        check(sglang("0.5.13"), "in_flight")


def test_what_runs_is_retracted_around_an_update_and_old_keys_and_values_are_flushed():
    load = Call("/update_weights_from_disk", {**LOADED, "flush_cache": True})
    assert update(sglang("0.5.23"), Path("/w/v000007"), 7) == Update(
        before=Call("/pause_generation", {"mode": "retract"}), load=load, after=Call("/continue_generation", {})
    )
    assert update(sglang("0.5.13"), Path("/w/v000007"), 7) == Update(load=load)


def test_the_embedded_engine_takes_care_of_itself():
    assert update(EMBEDDED, Path("/w/v000007"), 7) == Update(load=Call("/update_weights_from_disk", LOADED))
