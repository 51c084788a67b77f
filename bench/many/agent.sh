# A command agent that mostly waits for the model: sh and curl.
for number in $(seq "$1"); do
  curl -sf "$OPENAI_BASE_URL/chat/completions" -H "Authorization: Bearer $OPENAI_API_KEY" \
    -H "Content-Type: application/json" -o /dev/null \
    -d "{\"model\": \"policy\", \"messages\": [{\"role\": \"user\", \"content\": \"Say something, for the ${number}th time.\"}]}" \
    || exit 1
done
echo done
