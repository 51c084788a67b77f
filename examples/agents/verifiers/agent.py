"""Play one row of a verifiers environment and print what its rubric says: `agent.py ENVIRONMENT train|eval ROW`."""

import asyncio
import json
import os
import sys

import verifiers as vf


async def play(environment, split, row):
    rows = environment.get_eval_dataset() if split == "eval" else environment.get_dataset()
    endpoint = vf.ClientConfig(api_base_url=os.environ["OPENAI_BASE_URL"], api_key_var="OPENAI_API_KEY")
    return await environment.run_rollout(rows[row], endpoint, os.environ.get("OPENAI_MODEL", "default"), {})


if __name__ == "__main__":
    name, split, row = sys.argv[1:]
    played = asyncio.run(play(vf.load_environment(name), split, int(row)))
    if played.get("error"):
        sys.exit(f"{name}, {split} {row}: {played['error']}")
    print(json.dumps({"reward": played["reward"], "metrics": played["metrics"]}))
