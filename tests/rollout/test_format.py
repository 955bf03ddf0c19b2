import json
from pathlib import Path

from m2gym.rollout.format import page, record_schema
from m2gym.rollout.records import encode

DOCUMENT = Path(__file__).parents[2] / "docs" / "run-format.md"


def test_the_document_is_in_step_with_the_code():
    assert DOCUMENT.read_text("utf-8") == page(), (
        "run: python -m m2gym.rollout.format > docs/run-format.md"
    )


def test_a_line_has_the_keys_that_the_schema_requires(record):
    line, schema = json.loads(encode(record())), record_schema()
    assert set(schema["required"]) <= set(line) <= set(schema["properties"])
