#!/bin/sh
# Claude Code as a command line tool: claude_code.sh TASK. It speaks Anthropic's Messages API.
set -eu

export CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DISABLE_AUTOUPDATER=1
node "$NODE_PATH/@anthropic-ai/claude-code/cli-wrapper.cjs" -p "$1" --allowedTools Bash
