"""Which worker a request belongs to: read from bytes, the same as from the request itself."""

from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from proxy_world import ADMIN

from nexrl.keys import attempt_key
from nexrl_proxy.attribution import UNATTRIBUTED, caller_of
from nexrl_proxy.errors import ApiError
from nexrl_proxy.workers.pinning import read_head, session_of

ATTEMPTS = st.sampled_from(["a-1", "b:2", "c@eval", "bad id", "x" * 201, "é"])
TARGETS = st.one_of(
    st.sampled_from(["/v1/chat/completions", "/v1/models?x=1", "/health", "/s//v1/models", "http://h:1/v1/models"]),
    ATTEMPTS.map(lambda attempt: f"/s/{attempt.replace(' ', '%20').replace(':', '%3A')}/v1/chat/completions?a=b"),
)
KEYS = st.one_of(
    ATTEMPTS.filter(lambda attempt: len(attempt) < 9 and " " not in attempt and attempt.isascii()).map(
        lambda attempt: attempt_key(attempt, ADMIN)
    ),
    st.sampled_from(["sk-other", "nxr-a-1.wrong", ADMIN]),
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Authorization": KEYS.map(lambda key: f"Bearer {key}"),
        "X-Api-Key": KEYS,
        "x-nexrl-session": ATTEMPTS,
        "baggage": ATTEMPTS.map(lambda attempt: f"k=v,nexrl.session={attempt};p=1"),
        "traceparent": st.just(f"00-{'ab' * 16}-{'cd' * 8}-01"),
        "content-type": st.just("application/json"),
    },
)


@given(TARGETS, HEADERS)
def test_a_session_is_found_from_the_bytes_as_it_is_from_the_request(target, headers):
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    path, found = read_head(f"POST {target} HTTP/1.1\r\nHost: x\r\n{lines}\r\nauthorization: not mine".encode())
    attempt = path.split("/")[2].replace("%20", " ").replace("%3A", ":") if path.startswith("/s/") else None
    as_received = CIMultiDictProxy(CIMultiDict(headers))
    try:
        expected = caller_of(prefix=attempt or None, headers=as_received, admin_key=ADMIN).session
    except ApiError:
        expected = UNATTRIBUTED
    assert (session_of(path, found, ADMIN) or UNATTRIBUTED) == expected


def test_an_operators_request_about_a_session_is_the_sessions():
    assert session_of("/api/sessions/a%401/flush", {"authorization": f"Bearer {ADMIN}"}, ADMIN) == "a@1"
    assert session_of("/api/stats", {"authorization": f"Bearer {ADMIN}"}, ADMIN) is None
