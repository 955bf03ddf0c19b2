"""TRL's GRPOTrainer trains in our environments; run by `make test-peers`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytestmark = [pytest.mark.peers, pytest.mark.timeout(900)]
trl = pytest.importorskip("trl", reason="run by `make test-peers`")
torch = pytest.importorskip("torch", reason="run by `make test-peers`")

import datasets  # noqa: E402
import tokenizers  # noqa: E402
import transformers  # noqa: E402

import m2gym  # noqa: E402
from m2gym.backends.trl_environment import environment_factory, rows  # noqa: E402
from m2gym.core.errors import InputError  # noqa: E402

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CALL = '<tool_call>\n{"name": "answer", "arguments": {"response": "%s"}}\n</tool_call><|im_end|>'


@pytest.fixture
def environment(tmp_path):
    """Questions whose answer is 4 or 5."""
    lines = [{"question": f"What is {n} + {n % 2 + 4 - n}?", "answer": f"#### {n % 2 + 4}"}
             for n in range(4)]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"taskset": "gsm8k", "train": str(path)}


def tokenizer():
    """Bytes, and the turns of a chat in the template that TRL knows as Qwen3's."""
    plain = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=alphabet(), merges=[]))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = tokenizers.decoders.ByteLevel()
    found = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL,
    )  # fmt: skip
    template = Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja"
    found.chat_template = template.read_text("utf-8")
    return found


def alphabet():
    return {c: n for n, c in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}


def model_that_answers(words, prompts):
    """A tiny model, taught in a few seconds to answer 4 or 5 by a call, whatever is asked."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=4096,
        eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    adam = torch.optim.AdamW(model.parameters(), lr=5e-3)
    says = [words.encode(CALL % n, add_special_tokens=False) for n in (4, 5)]
    for step in range(160):
        ids = prompts[step % len(prompts)] + says[step // 2 % 2]
        labels = [-100] * (len(ids) - len(says[0])) + says[step // 2 % 2]
        model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.backward()
        adam.step()
        adam.zero_grad()
    return model


def test_the_class_has_the_tools_and_the_verdict(environment):
    env = environment_factory("tool-use", workspace="process", **environment)()
    first, *_ = rows("tool-use", limit=2, **environment)
    assert first["prompt"] == [{"role": "user", "content": ""}]
    told = env.reset(**first)
    question = re.search(r"What is (\d) \+ (-?\d)\?", told)
    assert question
    assert env.calculator("2 + 3") == "5"
    schema = transformers.utils.get_json_schema(env.calculator)["function"]
    assert schema["parameters"]["properties"]["expression"]["type"] == "string"
    assert env.answer(response=str(int(question[1]) + int(question[2]))) == "answered"
    assert env.get_reward() == 1.0
    assert "over" in env.calculator("1")
    env.reset(task=first["task"])
    assert env.get_reward() == 0.0, "an episode that gave no answer is graded all the same"
    with pytest.raises(InputError, match="no tool 'fly'"):
        environment_factory("tool-use", workspace="process", tools=["fly"], **environment)


def test_grpo_trainer_trains_in_an_environment(environment, tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    words = tokenizer()
    made = environment_factory("tool-use", workspace="process", tools=["answer"], **environment)
    asked = rows("tool-use", **environment)
    probe = made()
    texts = [
        words.apply_chat_template(
            [{"role": "user", "content": probe.reset(**row)}], tools=[probe.answer],
            add_generation_prompt=True, return_dict=False,
        )
        for row in asked
    ]  # fmt: skip
    model = model_that_answers(words, texts)
    before = [p.detach().clone() for p in model.parameters()]
    config = trl.GRPOConfig(
        output_dir=str(tmp_path / "trl"), max_steps=3, per_device_train_batch_size=4,
        num_generations=4, max_completion_length=96, learning_rate=1e-4, temperature=0.7,
        use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[],
        save_strategy="no", logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=model, args=config, train_dataset=datasets.Dataset.from_list(asked),
        processing_class=words, environment_factory=made,
    )  # fmt: skip
    trainer.train()
    logs = [log for log in trainer.state.log_history if "reward" in log]
    assert len(logs) == 3
    assert any(log["reward"] > 0 for log in logs), "its calls reached the environment"
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert m2gym.__version__


def test_rewards_beside_trl_s_after_equal_processor_time():
    """The benchmark runs to its end, by the command's own processes."""
    from dataclasses import replace

    from m2gym.backends.local.bench_step import LEARN, learn

    ours, theirs = learn(replace(LEARN, steps=3), seeds=(1,))
    assert "m2gym" in ours["what"]
    assert "trl" in theirs["what"]
    assert ours["updates"] == 3
    assert all(0 < row["reward"] < 1 for row in (ours, theirs))
