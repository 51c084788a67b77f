"""Ask a model for a sum, as anybody would with the OpenAI SDK."""

import sys

from openai import OpenAI

reply = OpenAI().chat.completions.create(
    model="any", max_tokens=24, messages=[{"role": "user", "content": sys.argv[1]}]
)
print(reply.choices[0].message.content)
