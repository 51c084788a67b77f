"""What a scripted model says: the same to the same prompt, in ids that no encoder would have chosen.

Replies of a family are written as its models write them; a model without a family samples any ids at all.
"""

import random
from collections import Counter
from typing import Any

from families import BESIDE, LATER, PARALLEL, REASONING, Family, Reply
from proxy_world import World
from scripted_engine import Line

from nexrl.records import Float32s

ALPHABET = ["a", "b ", " c", "é", "日本", "🌍", "\n", "sunny", "<|im_end|>", "</s>", "[INST]", "<think", "{", '"']
SPELLED_CALLS = ('{"name":"look","arguments":{"b":1.0,"a":"x"}}', '{"name": "look", "arguments": {}}')
CUT = {"type": "length", "length": 9}
PAUSED = {"type": "abort", "message": "paused"}


class Speaker:
    """Answers the requests of one world; give it to `world.engine.script`."""

    def __init__(self, world: World, family: Family | None) -> None:
        self.world, self.family = world, family
        self.asked: Counter[tuple[int, ...]] = Counter()
        self.pause_before: int | None = None
        """The next answer waits there until it is aborted."""
        self.rest: dict[tuple[int, ...], list[int]] = {}
        """What is left to say behind the tokens of an answer that was cut."""
        hidden = world.renderer.vocabulary.hidden
        self.ordinary = [token for token in range(world.renderer.vocabulary_size) if token not in hidden]
        self.added = world.renderer.tokenizer.get_added_tokens_decoder()
        self.spelled = {world.renderer.tokenizer.id_to_token(token): token for token in self.ordinary}

    def __call__(self, asked: dict[str, Any]) -> Line:
        prompt = tuple(asked["input_ids"])
        self.asked[prompt] += 1
        draw = random.Random(f"{prompt}{self.asked[prompt]}")
        deaf = asked["sampling_params"].get("ignore_eos", False)
        ids, finish = self.rest.pop(prompt, None) or self.whole(draw, prompt), CUT if deaf else {"type": "stop"}
        if deaf:  # the end of a turn does not end it; a template that takes one call of a turn takes no second one
            several = self.family is None or PARALLEL not in self.family.lacks
            ids = [*ids, *self.whole(draw, prompt, with_tools=several)][: draw.choice([None, -1])]
        if draw.random() < 0.25:
            ids, finish = self.cut(draw, prompt, ids)
        pause, self.pause_before = self.pause_before, None
        return Line(
            ids=ids,
            logprobs=[float(value) for value in Float32s(-draw.expovariate(1) for _ in ids)],
            finish=finish,
            version=draw.randrange(9),
            pause_before=None if pause is None else min(pause, len(ids) - 1),
        )

    def whole(self, draw: random.Random, prompt: tuple[int, ...], *, with_tools: bool = True) -> list[int]:
        ids, ending = self.written(draw, prompt, with_tools=with_tools) if self.family else self.anything(draw)
        return [*ids, *ending]

    def cut(self, draw: random.Random, prompt: tuple[int, ...], ids: list[int]) -> tuple[list[int], dict[str, Any]]:
        """Leave the rest unsaid: for ever, or until somebody asks to go on."""
        end = draw.randrange(1, len(ids)) if len(ids) > 1 else 1
        finish = draw.choice([CUT, PAUSED])
        if finish is PAUSED:
            self.rest[(*prompt, *ids[:end])] = ids[end:]
        return ids[:end], finish

    def anything(self, draw: random.Random) -> tuple[list[int], list[int]]:
        """Sample ids that need not be text, with tool calls among them."""
        ids = draw.choices(self.ordinary, k=draw.randrange(1, 10))
        for _ in range(draw.choice([0, 0, 1, 2])):
            ids += self.world.renderer.encode(f"<tool_call>{draw.choice(SPELLED_CALLS)}</tool_call>")
        return ids, sorted(self.world.renderer.eos)

    def written(self, draw: random.Random, prompt: tuple[int, ...], *, with_tools: bool) -> tuple[list[int], list[int]]:
        """Write a reply in the family's way."""
        assert self.family
        reply = self.reply(draw, with_tools=with_tools and b"looks" in self.world.renderer.spelled(prompt))
        encode = self.world.renderer.encode
        behind_results = not self.world.renderer.tail(prompt).rstrip().endswith("<think>")
        ids = [
            piece for token in encode(self.family.write(reply, behind_results)) for piece in self.pieces(draw, token)
        ]
        return ids, list(encode(self.family.ends(reply)))

    def reply(self, draw: random.Random, *, with_tools: bool) -> Reply:
        assert self.family
        lacks = self.family.lacks
        text = "".join(draw.choices(ALPHABET[:8], k=draw.randrange(1, 6)))
        count = draw.choice([0, 0, 1, 2]) if PARALLEL not in lacks else draw.choice([0, 1])
        calls = [("look", {"a": draw.choice(["x", 'é "q"', ""]), "b": draw.randrange(3)}) for _ in range(count)]
        calls = calls if with_tools else []
        reasoning = "hm" if not lacks & {REASONING, LATER} and draw.random() < 0.5 else ""
        return Reply(content="" if calls and (BESIDE in lacks or draw.random() < 0.5) else text + "x", calls=calls,
                     reasoning=reasoning)  # fmt: skip

    def pieces(self, draw: random.Random, token: int) -> list[int]:
        """Return a token, or smaller ones that spell the same."""
        text = self.world.renderer.tokenizer.id_to_token(token)
        if token in self.added or draw.random() < 0.6:
            return [token]
        return [self.spelled[character] for character in text]
