"""SGLang's `/generate` answers, and how a completion grows by them. Pure; the exchange is `sglang`.

A stream repeats everything so far in each event, which costs O(n^2) if all of it is read. So ids and logprobs stay
unparsed JSON, of which only the end that is new is decoded. Whatever does not look as expected is decoded in full.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from nexrl.records import Float32s, Int32s
from nexrl_proxy.engines import Completion

_EMPTY = Raw(b"[]")
Pair = tuple[float | None, int, Any]
"""(logprob, id, text or null)"""


class VersionSpan(Struct):
    """Tokens start <= i < end were sampled by weights `version`."""

    version: str | int
    start: int
    end: int


class Told(Struct):
    """What is read of `meta_info` besides its lists; there is much more."""

    finish_reason: dict[str, Any] | None = None
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    cached_tokens: int | None = 0
    weight_version: str | int | None = None
    weight_versions: list[VersionSpan] | None = None
    output_top_logprobs: Raw = _EMPTY


class Meta(Told):
    """Of an answer whose lists stay unparsed."""

    output_token_logprobs: Raw = _EMPTY


class ShortMeta(Told):
    """Of an answer that is short enough to be read in one go."""

    output_token_logprobs: list[Pair] | None = None


class Generated(Struct):
    """A plain reply, or one event of a stream."""

    output_ids: Raw = _EMPTY
    meta_info: Meta = msgspec.field(default_factory=Meta)
    error: Any = None


class Short(Struct):
    """The same, read in one go: as most events of a stream are."""

    output_ids: list[int] | None = None
    meta_info: ShortMeta = msgspec.field(default_factory=ShortMeta)
    error: Any = None


LONG = 1024
"""Bytes; in a shorter answer, finding the lists costs more than reading them."""
_IDS, _PAIRS = b'"output_ids":[', b'"output_token_logprobs":[['
_decode = msgspec.json.Decoder(Generated).decode
_short = msgspec.json.Decoder(Short).decode
_ids = msgspec.json.Decoder(list[int]).decode
_pairs = msgspec.json.Decoder(list[Pair]).decode
_alternatives = msgspec.json.Decoder(list[list[Pair] | None] | None).decode


def decode(data: bytes) -> Generated | Short:
    """Read an answer; raises `msgspec.DecodeError`.

    Of a long one, the two lists are cut out first: looking for their ends is far quicker than reading past them. Their
    names cannot stand in a JSON string like this, because the quote in it would have a backslash before it.
    """
    if len(data) <= LONG:
        return _short(data)
    ids = data.find(_IDS)
    ids_end = data.find(b"]", ids) + 1
    pairs = data.find(_PAIRS, ids_end)
    if ids < 0 or pairs < 0:
        return _decode(data)
    ids, pairs = ids + len(_IDS) - 1, pairs + len(_PAIRS) - 2
    pairs_end = data.rfind(b"]]") + 2
    rows = data[pairs:pairs_end]
    if b'"' in rows:  # texts, or more than one list
        return _decode(data)
    generated = _decode(b"%b[]%b[]%b" % (data[:ids], data[ids_end:pairs], data[pairs_end:]))
    generated.output_ids = Raw(data[ids:ids_end])
    generated.meta_info.output_token_logprobs = Raw(rows)
    return generated


class Growth:
    """One completion, and how far the unparsed arrays of its stream were read."""

    def __init__(self) -> None:
        self.completion = Completion()
        self._ids_at = 0
        self._pairs_at = 0

    def take(self, generated: Generated | Short) -> None:
        """Take over an answer, be it everything so far or only what is new. Raises `msgspec.DecodeError`."""
        meta, completion = generated.meta_info, self.completion
        seen = len(completion.ids)
        ids, pairs = self._new(generated)
        end = seen + len(ids)
        if len(ids) == len(pairs) == 1 and not meta.weight_versions:  # as nearly every event of a stream
            _take_one(completion, ids[0], pairs[0], _integer(meta.weight_version))
        else:
            completion.ids.extend(Int32s(ids))
            _take_logprobs(completion, ids, pairs)
            completion.weight_versions.extend(versions_of(meta.weight_versions, meta.weight_version, seen, end))
        if len(meta.output_top_logprobs) > len(b"null"):
            _take_alternatives(completion, _alternatives(meta.output_top_logprobs) or [], seen)
        completion.prompt_tokens = meta.prompt_tokens or 0
        completion.cached_tokens = meta.cached_tokens or 0
        completion.completion_tokens = end
        if meta.finish_reason:
            _finish(completion, generated, streamed=seen > 0)

    def _new(self, generated: Generated | Short) -> tuple[list[int], list[Pair]]:
        """Return the ids and logprobs that were not there before.

        Example: `[5,6` was read of ids [5,6,7], and the engine counts three -> 7, and the pair behind the second one.
        """
        seen, total = len(self.completion.ids), generated.meta_info.completion_tokens or 0
        if isinstance(generated, Short):
            found, beside = generated.output_ids or [], generated.meta_info.output_token_logprobs or []
            return _unseen(found, beside, seen, total)
        ids, pairs = bytes(generated.output_ids), bytes(generated.meta_info.output_token_logprobs)
        if ids.startswith(b",", self._ids_at) and pairs.startswith(b"],", self._pairs_at - 1):
            found, beside = _read(ids, pairs, self._ids_at + 1, self._pairs_at + 1)
            if seen + len(found) == total and len(beside) == len(found):
                self._ids_at, self._pairs_at = len(ids) - 1, len(pairs) - 1
                return found, beside
        found, beside = _read(ids, pairs, 1, 1)
        even = len(found) == total == len(beside) and total > 0
        self._ids_at, self._pairs_at = (len(ids) - 1, len(pairs) - 1) if even else (0, 0)
        return _unseen(found, beside, seen, total)


def _unseen(found: list[int], beside: list[Pair], seen: int, total: int) -> tuple[list[int], list[Pair]]:
    """Return what is new in an answer that may hold everything so far, of which `seen` tokens are known."""
    if not seen or len(found) < total:
        return found, beside
    # SGLang serialises lists that it goes on appending to, so that one may be ahead of the other.
    return (found[seen : len(beside)], beside[seen : len(found)]) if len(beside) >= seen else (found[seen:], [])


def _read(ids: bytes, pairs: bytes, ids_at: int, pairs_at: int) -> tuple[list[int], list[Pair]]:
    """Return what stands in both arrays from these places on."""
    found = _ids(b"[" + ids[ids_at:]) if ids != b"null" else []
    beside = _pairs(b"[" + pairs[pairs_at:]) if pairs != b"null" else []
    return found, beside


def _take_one(completion: Completion, token: int, pair: Pair, version: int) -> None:
    completion.ids.append(token)
    completion.weight_versions.append(version)
    completion.exact = completion.exact and pair[1] == token and pair[0] is not None
    if completion.exact and pair[0] is not None:
        completion.logprobs.append(pair[0])


def _take_logprobs(completion: Completion, ids: list[int], pairs: list[Pair]) -> None:
    if not completion.exact or not ids:
        return
    logprobs, beside, *_ = zip(*pairs[-len(ids) :], strict=True) if pairs else ((), ())
    completion.exact = list(beside) == ids
    if completion.exact:
        try:
            completion.logprobs.extend(Float32s(logprobs))
        except TypeError:  # null: the engine has no logprob for a token it sampled
            completion.exact = False


def _take_alternatives(completion: Completion, places: list[list[Pair] | None], seen: int) -> None:
    end = len(completion.ids)
    rows = places[seen:end] if len(places) >= end else places[: end - seen]
    shown = [[(pair[0], pair[1]) for pair in row or () if pair[0] is not None] for row in rows]
    completion.top_logprobs = (completion.top_logprobs or []) + shown


def _finish(completion: Completion, generated: Generated | Short, *, streamed: bool) -> None:
    meta = generated.meta_info
    assert meta.finish_reason
    completion.finish = str(meta.finish_reason.get("type") or "stop")
    completion.matched = meta.finish_reason.get("matched")
    completion.message = str(meta.finish_reason.get("message") or "")
    if meta.weight_versions:  # SGLang tells them at the end only
        completion.weight_versions = versions_of(meta.weight_versions, meta.weight_version, 0, len(completion.ids))
    ids = _all_ids(generated) if streamed else []
    if len(ids) == len(completion.ids):  # it repeats everything, so what was read event by event can be checked
        completion.exact = completion.exact and ids == completion.ids.tolist()


def _all_ids(generated: Generated | Short) -> list[int]:
    if isinstance(generated, Short):
        return generated.output_ids or []
    return _read(bytes(generated.output_ids), b"null", 1, 1)[0]


def versions_of(spans: list[VersionSpan] | None, version: str | int | None, start: int, end: int) -> Int32s:
    """Return the weight versions of tokens `start` to `end`, from the engine's spans or else its one version.

    A version that is no integer (SGLang starts with "default") counts as 0.
    Example: spans (4, 0..2), (5, 2..3), tokens 0 to 3 -> 4 4 5.
    """
    versions = Int32s([_integer(version)] * (end - start))
    for span in spans or ():
        for index in range(max(start, span.start), min(end, span.end)):
            versions[index - start] = _integer(span.version)
    return versions


def _integer(version: str | int | None) -> int:
    try:
        return int(version or 0)
    except ValueError:
        return 0
