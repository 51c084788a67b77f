"""SGLang's own flags in a recipe: written, and checked against what the installed version lists."""

import sys

import pytest

from nexrl.errors import ConfigError
from nexrl_trainer.engines.servers.flags import arguments, installed, known, parallel, refuse_unknown
from nexrl_trainer.engines.servers.kinds import SERVERS

SGLANG, VLLM = SERVERS["sglang"], SERVERS["vllm"]
HELP = """usage: sglang serve [-h] --model-path MODEL_PATH
                    [--mem-fraction-static MEM_FRACTION_STATIC]

options:
  -h, --help            show this help message and exit
  --model-path MODEL_PATH, --model MODEL_PATH
                        The path of the weights, see also --not-an-option.
  --tp-size TP_SIZE, --tensor-parallel-size TP_SIZE
                        The tensor parallelism size.
  --trust-remote-code   Whether to allow --custom models.
  --enable-tf32-matmul, --no-enable-tf32-matmul
                        Use it. (default: None)
  --kv-cache-dtype {auto,fp8_e5m2}
  --lora-paths [PATH ...]
                        Adapters.
"""
OPTIONS = {
    "help",
    "model-path",
    "model",
    "tp-size",
    "tensor-parallel-size",
    "trust-remote-code",
    "enable-tf32-matmul",
    "no-enable-tf32-matmul",
    "kv-cache-dtype",
    "lora-paths",
}


def test_flags_become_words():
    flags = {"tp-size": 2, "mem-fraction-static": 0.5, "enable-metrics": True, "names": ["a", "b"], "dtype": "auto"}
    words = "--tp-size 2 --mem-fraction-static 0.5 --enable-metrics --names a b --dtype auto"
    assert arguments(flags) == words.split()
    assert arguments({}) == []


def test_options_are_what_argparse_lists_not_what_it_mentions():
    assert known(HELP) == OPTIONS


def test_a_flag_that_is_no_option_is_refused_with_what_it_may_have_meant():
    refuse_unknown(SGLANG, ["tp-size", "tensor-parallel-size", "trust-remote-code"], OPTIONS)
    with pytest.raises(ConfigError, match=r"engine\.flags\.tp_size: .* did you mean tp-size"):
        refuse_unknown(SGLANG, ["model", "tp_size"], OPTIONS)
    with pytest.raises(ConfigError, match=r"engine\.flags\.xyzzy: .* see `python -m sglang\.launch_server --help`"):
        refuse_unknown(SGLANG, ["xyzzy"], OPTIONS)


def fake_sglang(tmp_path, code):
    (tmp_path / "sglang").mkdir()
    (tmp_path / "sglang/__init__.py").touch()
    (tmp_path / "sglang/launch_server.py").write_text(code)
    return {"PYTHONPATH": str(tmp_path)}


def test_the_installed_version_is_asked(tmp_path):
    environment = fake_sglang(tmp_path, f"import sys; assert sys.argv[1:] == ['--help']; print({HELP!r})")
    assert installed(SGLANG, sys.executable, environment) == OPTIONS


def test_an_environment_without_a_working_sglang_is_named_with_what_it_said(tmp_path):
    environment = fake_sglang(tmp_path, "raise ImportError('libcuda.so.1 is missing')")
    with pytest.raises(ConfigError, match=r"(?s)engine\.python=.*install it there.*libcuda\.so\.1 is"):
        installed(SGLANG, sys.executable, environment)
    with pytest.raises(ConfigError, match=r"engine\.python=/nowhere/python: .*name the Python"):
        installed(SGLANG, "/nowhere/python", {})


def test_what_splits_a_server_over_gpus_is_read_under_either_name_and_has_to_be_a_number():
    assert parallel(SGLANG, {"tensor-parallel-size": 2, "dp-size": "3"}) == {"tp-size": 2, "pp-size": 1, "dp-size": 3}
    with pytest.raises(ConfigError, match=r"engine\.flags\.tp-size=two: give a whole number"):
        parallel(SGLANG, {"tp-size": "two"})


def test_vllm_lists_its_flags_when_it_is_asked_for_all_of_them(tmp_path):
    folder = tmp_path / "vllm/entrypoints/openai"
    folder.mkdir(parents=True)
    code = "import sys; assert sys.argv[1:] == ['--help=all']; print('options:\\n  --max-model-len N')"
    (folder / "api_server.py").write_text(code)
    assert installed(VLLM, sys.executable, {"PYTHONPATH": str(tmp_path)}) == {"max-model-len"}
    assert parallel(VLLM, {"tensor-parallel-size": 4})["tensor-parallel-size"] == 4
