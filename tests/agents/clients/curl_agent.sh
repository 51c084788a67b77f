#!/bin/sh
# An agent of curl, sed and a shell: curl_agent.sh TASK. It reads one call a turn, and adds with the shell's arithmetic.
set -eu

tools='[{"type":"function","function":{"name":"calculator","description":"Calculate with two whole numbers.","parameters":{"type":"object","properties":{"expression":{"type":"string"}},"required":["expression"]}}}]'
messages="{\"role\":\"user\",\"content\":\"$1\"}"

while :; do
  reply=$(curl --silent --show-error --fail-with-body "$OPENAI_BASE_URL/chat/completions" \
    -H "authorization: Bearer $OPENAI_API_KEY" -H 'content-type: application/json' \
    -d "{\"model\":\"any\",\"messages\":[$messages],\"tools\":$tools}")
  expression=$(printf %s "$reply" | sed -n 's/.*"expression\\": \\"\([0-9+*-]*\)\\".*/\1/p')
  [ -n "$expression" ] || break
  call=$(printf %s "$reply" | sed 's/.*"id":"\(call_[0-9a-f]*\)".*/\1/')
  arguments="{\\\"expression\\\": \\\"$expression\\\"}"
  messages="$messages,{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"$call\",\"type\":\"function\",\"function\":{\"name\":\"calculator\",\"arguments\":\"$arguments\"}}]}"
  messages="$messages,{\"role\":\"tool\",\"tool_call_id\":\"$call\",\"content\":\"$expression = $(($expression))\"}"
done
printf '%s\n' "$reply" | sed 's/.*"content":"\([^"]*\)".*/\1/'
