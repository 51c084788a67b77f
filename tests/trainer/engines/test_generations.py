"""What an update of an engine consists of, by kind and generation."""

from pathlib import Path

import pytest

from nexrl.errors import ConfigError
from nexrl_trainer.engines.generations import (
    EMBEDDED,
    Call,
    Group,
    Update,
    check,
    from_folder,
    from_group,
    from_tensors,
    group_backend,
    joining,
    leaving,
    sglang,
    vllm,
)
from nexrl_trainer.engines.layout import Stored

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
    with pytest.raises(
        ConfigError,
        match=r"in_flight: SGLang 0\.5\.13 names one .* set engine\.updates=drained, or take SGLang 0\.5\.23",
    ):
        check(sglang("0.5.13"), "in_flight")


RETRACT, GO_ON = Call("/pause_generation", {"mode": "retract"}), Call("/continue_generation", {})


def test_what_runs_is_retracted_around_an_update_and_old_keys_and_values_are_flushed():
    load = (Call("/update_weights_from_disk", {**LOADED, "flush_cache": True}),)
    assert from_folder(sglang("0.5.23"), Path("/w/v000007"), 7) == Update(
        version=7, before=(RETRACT,), load=load, after=(GO_ON,)
    )
    assert from_folder(sglang("0.5.13"), Path("/w/v000007"), 7) == Update(version=7, load=load)


def test_the_embedded_engine_takes_care_of_itself():
    load = (Call("/update_weights_from_disk", LOADED),)
    assert from_folder(EMBEDDED, Path("/w/v000007"), 7) == Update(version=7, load=load)


def test_tensors_come_between_a_beginning_and_an_end_and_the_last_ones_bring_the_version():
    found = from_tensors(sglang("0.5.23", ranks=2), ["a", "b"], 7)
    assert (found.before, found.close, found.after) == (
        (RETRACT, Call("/begin_weight_update", {})),
        (Call("/end_weight_update", {}),),
        (GO_ON,),
    )
    route = "/update_weights_from_tensor"
    assert list(found.load) == [
        Call(route, {"serialized_named_tensors": ["a", "a"], "flush_cache": False}),
        Call(route, {"serialized_named_tensors": ["b", "b"], "flush_cache": True, "weight_version": "7"}),
    ]
    assert not found.whole


def test_older_servers_take_tensors_as_they_come():
    found = from_tensors(sglang("0.5.13"), ["a"], 7)
    assert (found.before, found.close, found.after) == ((), (), ())
    assert [call.body["weight_version"] for call in found.load] == ["7"]


GROUP = Group(name="g", backend="gloo", host="h", port=9, size=4)


def test_an_engine_joins_a_group_with_its_first_rank_and_leaves_it_by_name():
    body = {"master_address": "h", "master_port": 9, "rank_offset": 2, "world_size": 4, "backend": "gloo"}
    assert joining(GROUP, 2) == Call("/init_weights_update_group", {**body, "group_name": "g"})
    assert leaving(GROUP) == Call("/destroy_weights_update_group", {"group_name": "g"})


@pytest.mark.parametrize(("version", "opens"), [("0.5.23", True), ("0.5.13", False)])
def test_what_is_sent_to_a_group_is_described_and_the_last_portion_brings_the_version(version, opens):
    first = (Stored("a", "float32", (2, 3), 24, Path("f")), Stored("b", "float32", (1,), 4, Path("f")))
    last = (Stored("c", "bfloat16", (5,), 10, Path("f")),)
    found = from_group(sglang(version), GROUP, [first, last], 7)
    beginning = (RETRACT, Call("/begin_weight_update", {})) if opens else ()
    assert (found.before, found.whole) == (beginning, False)
    assert (found.close, found.after) == (((Call("/end_weight_update", {}),), (GO_ON,)) if opens else ((), ()))
    always = {"load_format": "flattened_bucket", "group_name": "g"}
    described = {"names": ["a", "b"], "dtypes": ["float32", "float32"], "shapes": [[2, 3], [1]], **always}
    ending = {"names": ["c"], "dtypes": ["bfloat16"], "shapes": [[5]], **always}
    assert list(found.load) == [
        Call("/update_weights_from_distributed", {**described, "flush_cache": False}),
        Call("/update_weights_from_distributed", {**ending, "flush_cache": True, "weight_version": "7"}),
    ]


def test_a_group_is_of_cpus_or_of_gpus_and_of_servers_with_tensor_parallelism_alone():
    cpu, gpu = sglang("0.5.23"), sglang("0.5.23", ranks=2, device="cuda")
    assert (group_backend([cpu, cpu]), group_backend([gpu])) == ("gloo", "nccl")
    with pytest.raises(ConfigError, match=r"broadcast: engines compute on cpu, cuda; .* use disk, or tensors"):
        group_backend([cpu, gpu])
    with pytest.raises(ConfigError, match=r"SGLang 0\.5\.23 cannot join .*\(pp-size, dp-size\); use disk"):
        group_backend([cpu, sglang("0.5.23", copies=2)])


def test_vllm_is_paused_reloads_says_its_version_and_goes_on():
    found = from_folder(vllm("0.32.0", "processed_logprobs"), Path("/w/v000007"), 7)
    assert found == Update(
        version=7,
        told_at="/weight_info",
        before=(Call("/pause?mode=wait"),),
        load=(
            Call("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": "/w/v000007"}}),
            Call("/update_weight_version", {"new_version": "7"}),
        ),
        after=(Call("/resume"),),
        whole=False,
    )


def test_a_vllm_whose_logprobs_or_updates_are_others_is_refused():
    with pytest.raises(ConfigError, match=r"raw_logprobs: .* start it with --logprobs-mode processed_logprobs"):
        vllm("0.32.0", "raw_logprobs")
    with pytest.raises(ConfigError, match=r"vLLM 0\.31\.2: its weight updates are not those of 0\.32 and newer"):
        vllm("0.31.2", "processed_logprobs")
    with pytest.raises(ConfigError, match=r"in_flight: vLLM 0\.32\.0 names one"):
        check(vllm("0.32.0", "processed_logprobs"), "in_flight")
