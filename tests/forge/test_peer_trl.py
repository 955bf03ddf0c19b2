"""Losses against TRL's own trainer (1.16.0) on a tiny model, gradients by parameter:
``make test-peers``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from m2gym.forge.objectives import Cispo, Gspo, Objective, PpoClip, TokenBatch, dapo

pytestmark = pytest.mark.peers
trl: Any = pytest.importorskip("trl", reason="TRL is not installed here")

PROMPT, ANSWER, SAMPLES = 4, 6, 4


def trainer(folder: Path, beta: float = 0.0, **settings: Any) -> Any:
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(32)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w1")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1,
        )
    ).double()  # fmt: skip
    config = trl.GRPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to=[], num_generations=SAMPLES,
        per_device_train_batch_size=SAMPLES, temperature=1.0, max_completion_length=ANSWER,
        gradient_checkpointing=False, beta=0.0, **settings,
    )  # fmt: skip
    made = trl.GRPOTrainer(
        model=model, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=config,
        train_dataset=Dataset.from_dict({"prompt": ["w3 w4"] * SAMPLES}),
        processing_class=tokenizer,
    )  # fmt: skip
    # With a KL term from the start TRL would load the reference from a name on the hub; the loss
    # itself reads only this.
    made.beta = beta
    made.model.eval()
    return made


def inputs(made: Any, spread: float) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 32, (SAMPLES, PROMPT + ANSWER), generator=g)
    mask = (torch.arange(ANSWER)[None] < torch.tensor([6, 1, 4, 3])[:, None]).long()
    given = {
        "prompt_ids": ids[:, :PROMPT],
        "prompt_mask": torch.ones(SAMPLES, PROMPT, dtype=torch.long),
        "completion_ids": ids[:, PROMPT:],
        "completion_mask": mask,
        "advantages": torch.tensor([1.3, -0.7, -1.1, 0.5], dtype=torch.float64),
        "num_items_in_batch": mask.sum(),
    }
    with torch.no_grad():
        now = logprobs(made, given)
    old = now + spread * torch.randn(now.shape, generator=g, dtype=torch.float64)
    reference = now + 0.3 * torch.randn(now.shape, generator=g, dtype=torch.float64)
    return given | {"old_per_token_logps": old, "ref_per_token_logps": reference}


def logprobs(made: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of every completion token, from the model itself."""
    ids = torch.cat([given["prompt_ids"], given["completion_ids"]], 1)
    attention = torch.cat([given["prompt_mask"], given["completion_mask"]], 1)
    logits = made.model(ids, attention_mask=attention).logits[:, PROMPT - 1 : -1]
    picked = torch.log_softmax(logits, -1).gather(2, given["completion_ids"][..., None])
    return picked[..., 0]


CASES: dict[str, tuple[Objective, dict[str, Any], float]] = {
    # TRL's epsilon_high bounds the ratio itself, ours its distance from 1.
    "CISPO": (Cispo(0.5), {"loss_type": "cispo", "epsilon_high": 1.5}, 0.6),
    "GRPO": (PpoClip(), {"loss_type": "grpo", "epsilon": 0.2}, 0.6),
    "GRPO with KL": (
        PpoClip(kl=0.04),
        {"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": False},
        0.6,
    ),
    "DAPO": (dapo(), {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28}, 0.6),
    "GSPO": (
        Gspo(3e-4, 4e-4),
        {
            "loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4,
            "epsilon_high": 4e-4,
        },
        1e-3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_losses_and_gradients(
    case: tuple[Objective, dict[str, Any], float], tmp_path: Path
) -> None:
    ours, settings, spread = case
    made = trainer(tmp_path, **settings)
    given = inputs(made, spread)
    want = made._compute_loss(made.model, given)
    want.backward()
    right = {name: p.grad.clone() for name, p in made.model.named_parameters()}
    made.model.zero_grad()
    keep = given["completion_mask"].bool()
    sample = torch.arange(SAMPLES)[:, None].expand(keep.shape)[keep]
    got = ours(
        TokenBatch(
            logprobs(made, given)[keep], given["old_per_token_logps"][keep],
            given["advantages"][sample], sample, reference_M=given["ref_per_token_logps"][keep],
        )
    ).value  # fmt: skip
    got.backward()
    # TRL's log-softmax works in fp32 at places.
    assert got.item() == pytest.approx(want.item(), rel=1e-5)
    for name, p in made.model.named_parameters():
        assert p.grad is not None, name
        torch.testing.assert_close(p.grad, right[name], rtol=1e-4, atol=1e-7, msg=name)
