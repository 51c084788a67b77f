"""Sessions that nobody planned, with real services: what users say of them a day later is what the model learns."""

import contextlib
import json
import sys
import time
import urllib.request

import openai
import pytest
import yaml
from main_job import batches, read_json_lines, train, wait_until
from safetensors.torch import load_file

import nexrl
from nexrl.keys import ADMIN_KEY_VARIABLE, reward_grant, trainer_key
from nexrl_trainer.services.commands import nexrl as command
from nexrl_trainer.services.process import ServiceProcess

pytestmark = [pytest.mark.slow, pytest.mark.soak]
KEY = "an-admin-key-for-tests"
DAY_NS = 86_400 * 10**9
TICKETS = {"ticket-1": 1.0, "ticket-2": -1.0, "ticket-3": 1.0}
"""And what their users thought of them."""


class Production:
    """An engine, an ingest and a proxy that somebody runs, and agents that call them."""

    def __init__(self, engine, ingest, proxy):
        self.engine, self.ingest, self.proxy = engine, ingest, proxy

    def answer(self, ticket, question="What is 2 + 3?", **headers):
        said = {"x-nexrl-session": ticket, **headers}
        with openai.OpenAI(base_url=f"{self.proxy}/v1", api_key="none", default_headers=said) as client:
            messages = [{"role": "user", "content": question}]
            return client.chat.completions.create(model="any", messages=messages, max_tokens=8)

    def vote(self, ticket, value, **options):
        options.setdefault("key", reward_grant(ticket, KEY))
        return nexrl.emit_reward("thumbs", value, session=ticket, url=self.ingest, required=True, **options)

    def versions(self, ticket):
        """Return the weights that sampled a session, as ingest has them."""
        request = urllib.request.Request(
            f"{self.ingest}/api/sessions/{ticket}/trajectory", headers={"Authorization": f"Bearer {KEY}"}
        )
        with urllib.request.urlopen(request) as reply:
            sequences = json.load(reply)["sequences"]
        return {version for item in sequences for version in item["weight_versions"] if version is not None}

    def recipe(self, folder, model, **parts):
        """Write a recipe that learns from what happens here."""
        tree = {
            "name": "support",
            "steps": 1,
            "model": {"path": str(model)},
            "sessions": {"feedback": {"thumbs": 1}, "idle_s": 0},
            "rollouts": {"groups_per_step": len(TICKETS)},
            "algorithm": {"advantage": "reinforce_pp"},
            "train": {"learning_rate": 1e-3},
            "engine": {"url": self.engine},
            "proxy": {"url": self.proxy},
            "ingest": {"url": self.ingest},
            "keep_batches": True,
        }
        path = folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree | parts))
        return path


@pytest.fixture
def production(model, tmp_path):
    """As `docs/external.md` starts them; the agents' key names nobody, and nobody but the services has the admin's."""
    environment = {ADMIN_KEY_VARIABLE: KEY}

    def started(stack, name, argv):
        process = ServiceProcess(name, argv, str(tmp_path / f"{name}.log"), environment)
        stack.callback(process.stop)
        return process.url()

    with contextlib.ExitStack() as stack:
        engine_argv = [sys.executable, "-m", "nexrl_trainer.engines.embedded", "--model", str(model), "--port", "0"]
        engine = started(stack, "engine", [*engine_argv, "--max-length", "256"])
        ingest = started(stack, "ingest", command(["ingest", "--port", "0", "--data", str(tmp_path / "captured")]))
        where = ["--engine", engine, "--engine-kind", "sglang", "--model", str(model), "--ingest", ingest]
        spool = ["--port", "0", "--data", str(tmp_path / "spool")]
        yield Production(engine, ingest, started(stack, "proxy", command(["proxy", *where, *spool])))


def test_votes_of_a_day_later_reach_a_training_batch_and_the_weights_that_production_samples_with(
    production, model, tmp_path
):
    for ticket in TICKETS:
        production.answer(ticket)
    production.answer("nobody-votes")
    tomorrow = time.time_ns() + DAY_NS
    for ticket, value in TICKETS.items():
        production.vote(ticket, value, at_ns=tomorrow, key=trainer_key(KEY), by="user-7")

    recipe = production.recipe(tmp_path, model)
    code, output = train(recipe, tmp_path / "run", NEXRL_ADMIN_KEY=KEY)
    assert code == 0, output

    [datums] = batches(tmp_path / "run")
    assert {datum.session for datum in datums} == set(TICKETS)
    spread = (8 / 9) ** 0.5  # of 1 -1 1, whose mean is 1/3
    for datum in datums:
        worth = (TICKETS[datum.session] - 1 / 3) / spread
        assert datum.trained_tokens
        assert all(
            value == pytest.approx(worth * flag, rel=1e-5)
            for value, flag in zip(datum.advantages, datum.loss_mask, strict=True)
        )
    [step] = [line for line in read_json_lines(tmp_path / "run/metrics.jsonl") if line["kind"] == "step"]
    assert (step["rollouts"], step["reward"], step["staleness_max"]) == (3, pytest.approx(1 / 3), 1)
    assert (step["sessions_waiting"], step["sessions_without_feedback"]) == (1, 0)
    before, after = (
        load_file(folder / "model.safetensors") for folder in (model, tmp_path / "run/checkpoints/step-00001")
    )
    assert any(not after[name].equal(before[name]) for name in after)
    # What production samples now, it samples with what was learned.
    production.answer("afterwards")
    production.vote("afterwards", 1)
    wait_until(lambda: production.versions("afterwards") == {2})
