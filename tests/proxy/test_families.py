"""Every template family: what a turn appends is what a full re-render holds, or the template's rewriting is named."""

import itertools
import re
from pathlib import Path

import pytest
from families import BESIDE, FAMILIES, LATER, PARALLEL, REASONING, Family, Reply
from family_talk import CONVERSATIONS, HELLO, THANKS, TOOLS, Talk
from msgspec import Struct
from proxy_world import world_of

from nexrl_proxy.parsers.choose import Parsers

NEEDS = {
    "reasoning": {REASONING},
    "reasoning and tools": {REASONING, LATER},
    "parallel calls": {PARALLEL},
    "text beside calls": {BESIDE},
}
PAIRS = [
    (name, conversation)
    for name, family in FAMILIES.items()
    for conversation in CONVERSATIONS
    if not family.lacks & NEEDS.get(conversation, set())
]


class Rewrite(Struct, frozen=True):
    """A way in which a template renders what was said differently once more is said."""

    name: str
    pattern: str
    replacement: str


DROPPED, KEPT_EMPTY = "drops reasoning", "empties reasoning"
TOOLS_MOVED, ENDING = "moves the tools to the last question", "ends an earlier answer with <|end|>"
REWRITES: dict[str, list[Rewrite]] = {
    "qwen3": [Rewrite(DROPPED, r"(?s)<think>\n.*?\n</think>\n\n", "")],
    "deepseek_r1": [Rewrite(DROPPED, r"(?s)<think>\n.*?\n</think>", "")],
    "glm": [Rewrite(KEPT_EMPTY, r"(?s)<think>.+?</think>", "<think></think>")],
    "mistral": [Rewrite(TOOLS_MOVED, r"\[AVAILABLE_TOOLS\].*?\[/AVAILABLE_TOOLS\]", "")],
    "gpt_oss": [
        Rewrite(ENDING, r"<\|return\|>", "<|end|>"),
        Rewrite(DROPPED, r"<\|channel\|>analysis<\|message\|>.*?<\|end\|><\|start\|>assistant", ""),
    ],
}
REWRITTEN: dict[tuple[str, str], set[str]] = {
    ("qwen3", "reasoning"): {DROPPED},
    ("qwen3", "reasoning and tools"): {DROPPED},
    **{
        ("deepseek_r1", name): {DROPPED}
        for name in ("chat", "tools", "text beside calls", "parallel calls", "reasoning")
    },
    ("glm", "reasoning"): {KEPT_EMPTY},
    ("glm", "reasoning and tools"): {KEPT_EMPTY},
    ("mistral", "tools"): {TOOLS_MOVED},
    ("mistral", "parallel calls"): {TOOLS_MOVED},
    ("gpt_oss", "chat"): {ENDING},
    ("gpt_oss", "tools"): {ENDING},
    ("gpt_oss", "reasoning"): {ENDING, DROPPED},
    ("gpt_oss", "reasoning and tools"): {ENDING, DROPPED},
}
"""What is not here only ever appends."""


@pytest.fixture(scope="session")
def family_dir(tmp_path_factory):
    built: dict[str, Path] = {}

    def of(family: Family) -> Path:
        if family.name not in built:
            built[family.name] = family.build(tmp_path_factory.mktemp("families") / family.name)
        return built[family.name]

    return of


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_auto_recognises_the_family_from_its_template(family):
    parsers = Parsers(template=family.template)
    assert (parsers.tools, parsers.reasoning) == (family.tools, family.reasoning)


@pytest.mark.parametrize(
    ("name", "conversation"), PAIRS, ids=[f"{name}-{conversation}" for name, conversation in PAIRS]
)
async def test_a_turn_appends_what_a_full_rendering_holds_or_the_templates_rewriting_is_named(
    name, conversation, family_dir, tmp_path
):
    family = FAMILIES[name]
    directory = family_dir(family)
    tools = None if conversation in ("chat", "reasoning") else TOOLS
    named: set[str] = set()
    async with world_of(directory, tmp_path / "spool", reasoning="auto") as world:
        talk = Talk(world, family, directory, tools)
        for new, reply in CONVERSATIONS[conversation]:
            ours, rendered = await talk.turn(new, reply)
            named |= set() if ours == rendered else difference(family, talk.text(ours), talk.text(rendered))
        calls = await world.recorded()
    assert named == REWRITTEN.get((name, conversation), set())
    assert [(call.parent is not None, call.drift) for call in calls] == [
        (False, None),
        *[(True, None)] * (len(calls) - 1),
    ]


@pytest.mark.parametrize("name", FAMILIES)
async def test_a_turn_that_was_cut_short_is_ended_as_the_template_ends_it(name, family_dir, tmp_path):
    family = FAMILIES[name]
    directory = family_dir(family)
    async with world_of(directory, tmp_path / "spool", reasoning="auto") as world:
        talk = Talk(world, family, directory, None)
        await talk.turn([HELLO], Reply(content="hello wor"), cut=True)
        ours, rendered = await talk.turn([THANKS], Reply(content="it is sunny"))
        assert ours == rendered or difference(family, talk.text(ours), talk.text(rendered)) == {DROPPED}


def difference(family: Family, ours: str, rendered: str) -> set[str]:
    """Return the names of the rewritings that turn what the proxy sent into a full rendering."""
    rewrites = REWRITES.get(family.name, [])
    places = [(rewrite, match) for rewrite in rewrites for match in re.finditer(rewrite.pattern, ours)]
    for chosen in itertools.chain.from_iterable(
        itertools.combinations(places, count) for count in range(1, len(places) + 1)
    ):
        text = ours
        for rewrite, match in sorted(chosen, key=lambda place: -place[1].start()):
            text = text[: match.start()] + match.expand(rewrite.replacement) + text[match.end() :]
        if text == rendered:
            return {rewrite.name for rewrite, _ in chosen}
    raise AssertionError(f"{family.name} differs in a way nobody named:\n{ours!r}\n{rendered!r}")
