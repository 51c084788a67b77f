"""OpenAI's list of logprobs, which is put together from bytes written beforehand: for any text it is that JSON."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from thorough import examples

from nexrl_proxy.dialects import TokenText
from nexrl_proxy.dialects.logprobs import listed
from nexrl_proxy.text import shown_as

TEXTS = st.text(max_size=4) | st.sampled_from(["%", "%b", "%%s", '"', "\\", "\n", "日"])
LOGPROBS = st.floats(-50, 0, width=32)
TOKENS = st.tuples(TEXTS, LOGPROBS, st.lists(st.tuples(TEXTS, LOGPROBS), max_size=2))


def plain(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


@given(st.lists(TOKENS, max_size=5), st.booleans())
@examples(80)
def test_a_token_is_shown_with_its_text_its_bytes_its_logprob_and_the_alternatives(said, with_alternatives):
    told = [(text, logprob, top if with_alternatives else []) for text, logprob, top in said]
    tokens = [
        TokenText(shown_as(text, text.encode()), logprob, [TokenText(shown_as(t, t.encode()), p) for t, p in top])
        for text, logprob, top in told
    ]
    shown = [{**plain(text, logprob), "top_logprobs": [plain(*other) for other in top]} for text, logprob, top in told]
    assert json.loads(bytes(listed(tokens))) == shown
