"""What the pages say about settings and commands is what the code has."""

from pathlib import Path

from nexrl_trainer.recipe.reference import reference

ROOT = Path(__file__).parents[2]


def test_the_recipes_reference_is_up_to_date():
    """If this fails: python -m nexrl_trainer.recipe.reference > docs/recipe.md."""
    assert (ROOT / "docs/recipe.md").read_text() == reference()


def test_the_reference_knows_nested_settings_defaults_and_notes():
    text = reference()
    assert "| `rollouts.group_size` | `8` | Rollouts per task that are compared with each other" in text
    assert "| `steps` | required |" in text
    assert "| `trackers.mlflow.uri` | required |" in text


def test_the_architecture_page_names_every_file_of_every_room():
    page = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = ("agent_sdk/nexrl", "proxy/nexrl_proxy", "ingest/nexrl_ingest", "trainer/nexrl_trainer")
    files = {f"{path.relative_to(ROOT / room)}" for room in rooms for path in (ROOT / room).rglob("*.py")}
    missing = {file for file in files if f"| `{file}` |" not in page} - {"__init__.py"}
    assert missing == set()
