#!/bin/sh
# Answer an arithmetic question with a calculator: an agent of curl, jq and a shell. agent.sh QUESTION
set -eu

tools='[{"type": "function", "function": {"name": "calculator", "description": "Compute a operator b.", "parameters":
  {"type": "object", "required": ["a", "operator", "b"], "properties": {"a": {"type": "integer"},
   "operator": {"type": "string", "enum": ["+", "-", "*"]}, "b": {"type": "integer"}}}}}]'
messages=$(jq --null-input --arg question "$1" '[
  {role: "system", content: "Answer with a number. Use the calculator for every operation."},
  {role: "user", content: $question}]')

ask() {
  jq --null-input --argjson messages "$messages" --argjson tools "$tools" \
    '{model: (env.OPENAI_MODEL // "gpt-5.2"), messages: $messages, tools: $tools}' |
    curl --silent --show-error --fail-with-body "$OPENAI_BASE_URL/chat/completions" \
      -H "authorization: Bearer $OPENAI_API_KEY" -H 'content-type: application/json' --data-binary @- |
    jq '.choices[0].message'
}

# The shell calculates, so nothing reaches it but two whole numbers and an operator.
calculate() {
  if printf '%s' "$1" | grep -qxE -e '-?[0-9]{1,15} [-+*] -?[0-9]{1,15}'; then
    echo "$(($1))"
  else
    echo "error: cannot calculate $1"
  fi
}

for _ in 1 2 3 4; do
  message=$(ask)
  messages=$(printf '%s' "$messages" | jq --argjson message "$message" '. + [$message]')
  calls=$(printf '%s' "$message" | jq '.tool_calls // [] | length')
  [ "$calls" -gt 0 ] || break
  for number in $(seq 0 $((calls - 1))); do
    call=$(printf '%s' "$message" | jq --argjson number "$number" '.tool_calls[$number]')
    asked=$(printf '%s' "$call" | jq -r '.function.arguments | (try fromjson catch {}) | "\(.a?) \(.operator?) \(.b?)"')
    messages=$(printf '%s' "$messages" | jq --argjson call "$call" --arg result "$(calculate "$asked")" \
      '. + [{role: "tool", tool_call_id: $call.id, content: $result}]')
  done
done
printf '%s' "$message" | jq -r '.content // ""'
