"""What one try at a completion brings: read as it arrives, and told to whoever listens.

Called by engines for every event of a stream, so nothing here waits. Trying again and recording are `sampling`'s.
"""

from nexrl_proxy.dialects import TokenText
from nexrl_proxy.draw import Draw
from nexrl_proxy.engines import Completion
from nexrl_proxy.reading import Delta, Reader
from nexrl_proxy.text import Vocabulary


class Hearing:
    """Hears one engine's completion for one draw."""

    def __init__(self, draw: Draw, reader: Reader, vocabulary: Vocabulary | None) -> None:
        """Take `vocabulary` None for engines that return text."""
        self._draw = draw
        self._reader = reader
        self._vocabulary = vocabulary
        self._listener = draw.listener
        self._shows_tokens = draw.listener is not None and draw.plan.ask.logprobs
        self._seen = 0
        self.completion = Completion()
        """As far as it was heard."""

    def grown(self, completion: Completion) -> None:
        """Read what is new, and tell it."""
        self.completion, seen = completion, self._seen
        self._seen = len(completion.ids) or len(completion.spoken)
        if completion.spoken:
            tell(self._draw, self._reader.hear(completion.spoken[seen:]), None)
        else:
            tokens = texts_of(completion, seen, self._vocabulary) if self._shows_tokens else None
            tell(self._draw, self._reader.push(completion.ids[seen:]), tokens)

    def keeps_up(self) -> bool:
        """Send what was told of one read; whether the client reads it in time."""
        if self._listener is None:
            return True
        self._listener.flush()
        return not self._listener.behind

    async def caught_up(self) -> None:
        """Return when the client has read enough."""
        if self._listener:
            await self._listener.caught_up()


def tell(draw: Draw, deltas: list[Delta], tokens: list[TokenText] | None) -> None:
    """Tell the listener of a draw, if there is one and something to tell."""
    if draw.listener and (deltas or tokens):
        draw.listener.emit(draw.index, deltas, tokens)


def texts_of(completion: Completion, start: int, vocabulary: Vocabulary | None) -> list[TokenText]:
    """Return tokens from `start` on as replies with logprobs show them."""
    assert vocabulary  # an engine that returns text has refused logprobs
    if len(completion.ids) == start + 1 and not completion.top_logprobs:  # as nearly every event of a stream
        return [TokenText(vocabulary.shown(completion.ids[start]), logprob) for logprob in completion.logprobs[start:]]
    shown, logprobs = vocabulary.all_shown(completion.ids[start:]), completion.logprobs[start:]
    if not completion.top_logprobs:
        return list(map(TokenText, shown, logprobs))
    tops = [
        [TokenText(vocabulary.shown(token), logprob) for logprob, token in top]
        for top in completion.top_logprobs[start:]
    ]
    return list(map(TokenText, shown, logprobs, tops))
