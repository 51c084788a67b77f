"""Rollouts with everything real but the model: agents, ingest and proxy as processes; an engine that says one thing."""

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path

import aiohttp
from aiohttp import web
from msgspec import convert
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from nexrl.keys import attempt_key
from nexrl.records import Group, Task
from nexrl.rewards import load_rewards
from nexrl_ingest.client import IngestClient
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.recipe.tree import Rewards
from nexrl_trainer.rollouts.attempts import Attempts
from nexrl_trainer.rollouts.failures import Failures
from nexrl_trainer.rollouts.judging import Judge
from nexrl_trainer.rollouts.proxy import ProxyClient
from nexrl_trainer.rollouts.quarantine import Quarantine
from nexrl_trainer.rollouts.runners.choosing import runner_of
from nexrl_trainer.rollouts.runners.runner import Services

ADMIN_KEY = "an-admin-key-for-tests"
TEMPLATE = (
    "{% for message in messages %}{{ message.role + ':' + message.content + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


def little_model(folder):
    """A model directory without weights: a token for every byte, and one that ends a turn."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = {"model_type": "llama", "vocab_size": 257, "eos_token_id": 256, "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


async def generate(request):
    asked = await request.json()
    ids = [40, 41, 256]
    meta = {
        "id": asked["rid"],
        "finish_reason": {"type": "stop"},
        "prompt_tokens": len(asked["input_ids"]),
        "completion_tokens": len(ids),
        "cached_tokens": 0,
        "weight_version": "0",
        "output_token_logprobs": [[-0.5, token, None] for token in ids],
    }
    return web.json_response({"output_ids": ids, "meta_info": meta})


async def healthy(_):
    return web.json_response({"model_path": "little", "weight_version": "0"})


@contextlib.asynccontextmanager
async def engine():
    app = web.Application()
    app.add_routes([web.post("/generate", generate), web.get("/model_info", healthy), web.get("/health", healthy)])
    served = web.AppRunner(app, access_log=None)
    await served.setup()
    await web.TCPSite(served, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{served.addresses[0][1]}"
    await served.cleanup()


@contextlib.asynccontextmanager
async def service(*words):
    """`nexrl WORDS` on a free port; yields its address."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nexrl.cli", *map(str, words), "--port", "0"),
        env={**os.environ, "NEXRL_ADMIN_KEY": ADMIN_KEY},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield (await process.stdout.readline()).decode().removeprefix("ready ").strip()
    finally:
        process.terminate()
        await process.wait()


class World:
    """What rollouts of one recipe need."""

    def __init__(self, folder, proxy, ingest, http):
        self.folder = folder
        self.proxy = proxy
        self.ingest = IngestClient(ingest, ADMIN_KEY, http)
        self.http = http
        self.services = Services(proxy=proxy, ingest=ingest, model="little")

    @contextlib.asynccontextmanager
    async def attempts(self, recipe_folder, on_outcome=lambda _: None, **agent):
        agent = convert(agent, Agent)
        file = recipe_folder / "reward.py"
        judge = Judge(
            rewards=load_rewards(file) if file.is_file() else [],
            rule=Rewards(),
            ingest=self.ingest,
            folder=self.folder / "judging",
            log=self.folder / "rewards.log",
        )
        runner = runner_of(
            agent,
            recipe_folder=recipe_folder,
            workspaces=self.folder / "workspaces",
            log=self.folder / "agents.log",
            services=self.services,
            say=print,
        )
        async with judge, runner:
            yield Attempts(
                agent=agent,
                runner=runner,
                judge=judge,
                ingest=self.ingest,
                proxy=ProxyClient(self.proxy, ADMIN_KEY, self.http),
                admin_key=ADMIN_KEY,
                quarantine=Quarantine(agent.quarantine, file=self.folder / "quarantine.json", say=print),
                failures=Failures(self.folder / "failures.log"),
                on_outcome=on_outcome,
            )

    def failures(self):
        file = self.folder / "failures.log"
        return file.read_text() if file.is_file() else ""

    async def rollouts(self, attempts, name, size=1, run="run", task_id=None, **task):
        """Run a group of that name to its end; return what ingest knows of it."""
        group = Group(id=name, run=run, task=Task(id=task_id or name, fields=task), size=size)
        await self.ingest.put_group(group)
        await attempts.run(group, range(size), priority=(0,))
        return await self.ingest.group(name)

    async def call(self, attempt):
        """Call the model as this attempt; return the status."""
        headers = {"Authorization": f"Bearer {attempt_key(attempt, ADMIN_KEY)}"}
        body = {"model": "any", "messages": [{"role": "user", "content": "Still there?"}]}
        async with self.http.post(f"{self.proxy}/v1/chat/completions", json=body, headers=headers) as reply:
            return reply.status


@contextlib.asynccontextmanager
async def rollout_world(folder: Path):
    model = little_model(folder / "model")
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        engine_url, ingest = await asyncio.gather(
            enter(engine()), enter(service("ingest", "--data", folder / "ingest"))
        )
        where = ["--engine", engine_url, "--engine-kind", "sglang", "--ingest", ingest, "--data", folder / "proxy"]
        proxy = await enter(service("proxy", "--model", model, "--require-session", *where))
        yield World(folder, proxy, ingest, await enter(aiohttp.ClientSession()))
