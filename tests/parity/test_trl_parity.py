"""The same batch under the same weights: our losses and gradients are TRL's, where the definitions coincide.

Run by `make test-parity`. TRL is installed on first use into a folder of its own (NEXRL_PARITY_CACHE, by default
~/.cache/nexrl/parity) and runs in a process of its own, with the torch and transformers of this environment.
"""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from nexrl.records import Float32s, Int32s
from nexrl_trainer.batches.datums import Datum, weighed
from nexrl_trainer.policy.torch_backend import TorchBackend
from nexrl_trainer.recipe.algorithm import Algorithm
from nexrl_trainer.recipe.train import Train

HERE = Path(__file__).parent
TOLERANCE = 1e-5
CLIPS = {"epsilon": 0.2, "epsilon_high": 0.28}
OURS = {"clip_low": 0.2, "clip_high": 0.28}
CASES = {
    "grpo": ({"loss_type": "grpo", **CLIPS}, {"normalise": "sequence", **OURS}),
    "dapo": ({"loss_type": "dapo", **CLIPS}, {"normalise": "token", **OURS}),
    "bnpo": ({"loss_type": "bnpo", **CLIPS}, OURS),
    "dr_grpo": (
        {"loss_type": "dr_grpo", "max_completion_length": 16, **CLIPS},
        {"normalise": "constant", "constant_length": 16, **OURS},
    ),
    "dual_clip": ({"loss_type": "dapo", "delta": 1.5, **CLIPS}, {"dual_clip": 1.5, **OURS}),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.01, "epsilon_high": 0.02},
        {"loss": "gspo", "clip_low": 0.01, "clip_high": 0.02},
    ),
    "cispo": ({"loss_type": "cispo", "epsilon_high": 1.2}, {"loss": "cispo", "clip_high": 0.2}),
    "sapo": (
        {"loss_type": "sapo", "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05},
        {"loss": "sapo"},
    ),
    "k3": (
        {"loss_type": "dapo", "beta": 0.3, "use_bias_correction_kl": False, **CLIPS},
        {"kl": {"coefficient": 0.3}, **OURS},
    ),
    "unbiased_k3": (
        {"loss_type": "grpo", "beta": 0.3, "use_bias_correction_kl": True, **CLIPS},
        {"kl": {"coefficient": 0.3, "unbiased": True}, "normalise": "sequence", **OURS},
    ),
    "entropy": ({"loss_type": "dapo", "entropy_coef": 0.1, **CLIPS}, {"entropy": 0.1, **OURS}),
    "temperature": ({"loss_type": "dapo", "temperature": 0.7, **CLIPS}, OURS),
}
"""By name: TRL's configuration, and the recipe's `algorithm` that means the same."""


@pytest.fixture(scope="session")
def packages():
    """Return the folder with TRL and what it needs beside this environment."""
    listed = HERE / "requirements.txt"
    version = hashlib.sha256(listed.read_bytes() + sys.version.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("NEXRL_PARITY_CACHE") or Path.home() / ".cache/nexrl/parity")
    folder = cache / version
    if not (folder / ".complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", folder]
        subprocess.run([*map(str, install), "-r", str(listed)], check=True)
        (folder / ".complete").touch()
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    torch.manual_seed(11)
    path = tmp_path_factory.mktemp("parity")
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=61,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.2,
        )
    ).save_pretrained(path / "model")
    return path


def batch_of(folder, temperature):
    """Return four completions of two prompts whose old and reference logprobs lie around the policy's own."""
    draw = random.Random(5)
    rows = []
    for index, length in enumerate((5, 9, 7, 3)):
        prompt = [draw.randrange(2, 61) for _ in range(4 + index // 2)] if index % 2 == 0 else rows[-1]["prompt"]
        completion = [draw.randrange(2, 61) for _ in range(length)]
        # By how much the old logprobs lead: ratios above one and below it, for either sign of the advantage.
        advantage, lead = [(1.3, -0.4), (-0.7, 0.4), (0.4, 0.4), (-1.1, -0.4)][index]
        rows.append({"prompt": prompt, "completion": completion, "advantage": advantage, "lead": lead})
    plain = [
        datum_of({**row, "old": [0.0] * 9, "reference": [0.0] * 9}, str(i), temperature) for i, row in enumerate(rows)
    ]
    for row, logprobs in zip(rows, TorchBackend(folder / "model", Train(device="cpu")).forward(plain), strict=True):
        own = logprobs[len(row["prompt"]) :]
        row["old"] = [value + draw.gauss(row["lead"], 0.4) for value in own]
        row["reference"] = [value + draw.gauss(0, 0.5) for value in own]
    return rows


def datum_of(row, session, temperature):
    before, length = len(row["prompt"]), len(row["completion"])

    def column(values):
        return Float32s([0.0] * before + list(values)[:length])

    return Datum(
        ids=Int32s(row["prompt"] + row["completion"]),
        loss_mask=Int32s([0] * before + [1] * length),
        logprobs=column(row["old"]),
        reference=column(row["reference"]),
        temperatures=Float32s([temperature] * (before + length)),
        weight_versions=Int32s([-1] * before + [0] * length),
        advantages=column([row["advantage"]] * length),
        weights=column([0.0] * length),
        session=session,
    )


@pytest.fixture(scope="session")
def theirs(folder, packages):
    """Return what TRL computed, by case: its batch, its loss and gradients."""
    cases = [
        {"name": name, "config": config, "batch": batch_of(folder, config.get("temperature", 1.0))}
        for name, (config, _) in CASES.items()
    ]
    (folder / "cases.json").write_text(json.dumps(cases))
    environment = {**os.environ, "PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "trl_side.py"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return {case["name"]: (case["batch"], load_file(folder / f"{case['name']}.safetensors")) for case in cases}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_trls(name, theirs, folder):
    config, settings = CASES[name]
    batch, found = theirs[name]
    algorithm = msgspec.convert(settings, Algorithm)
    datums = [datum_of(row, str(index), config.get("temperature", 1.0)) for index, row in enumerate(batch)]
    backend = TorchBackend(folder / "model", Train(device="cpu"))
    weights = weighed(datums, algorithm.normalisation, algorithm.constant_length)
    sums = backend.forward_backward(weights, algorithm.objective)
    assert sums["loss"] == pytest.approx(found["loss"].item(), rel=TOLERANCE)
    gradients = {parameter: tensor.grad for parameter, tensor in backend.trained.items()}
    assert gradients.keys() == found.keys() - {"loss"}
    for parameter, gradient in gradients.items():
        error = (gradient - found[parameter]).norm() / found[parameter].norm()
        assert error < TOLERANCE, f"{parameter}: relative error {error:.2g}"


def test_the_batch_puts_every_bound_to_work(theirs, folder):
    """Where nothing is clipped, every loss is alike and parity proves little."""
    batch, _ = theirs["dapo"]
    datums = weighed([datum_of(row, str(index), 1.0) for index, row in enumerate(batch)], "token")
    backend = TorchBackend(folder / "model", Train(device="cpu"))
    for name in ("dapo", "gspo", "cispo"):
        sums = backend.forward_backward(datums, msgspec.convert(CASES[name][1], Algorithm).objective)
        assert sums["clipped_positive"] > 0, name
        assert sums["clipped_negative"] > 0, name
