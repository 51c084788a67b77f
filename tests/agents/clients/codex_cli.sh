#!/bin/sh
# Codex as a command line tool: codex_cli.sh TASK. It speaks the Responses API and nothing else.
set -eu

codex exec --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox \
  -c model_provider=here -c model="${OPENAI_MODEL:-gpt-5-codex}" \
  -c "model_providers.here={name=\"here\", base_url=\"$OPENAI_BASE_URL\", env_key=\"OPENAI_API_KEY\", wire_api=\"responses\"}" \
  "$1"
