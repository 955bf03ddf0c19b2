"""A Hugging Face causal model whose attention is ours and whose head is fp32.

Tokens come as one packed row with their positions; who calls says how they attend, so the engine
(over a cache) and the trainer (over a prefix tree) run the same weights of the same module.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from m2gym.backends.local.m2_layers import M2Layers
from m2gym.backends.local.products import linear
from m2gym.backends.local.threads import SMALL, one_thread
from m2gym.core.errors import InputError, M2GymError
from m2gym.forge.soundness import refuse_unsound

ATTENTION = "m2gym_attend"
"""The name of our attention in transformers' registry."""

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
"""Layer, queries (H x T x D), keys (K x T x D), values (K x T x D), scale → output (H x T x D)."""


class ModelMismatchError(M2GymError):
    """The model under our attention and head gives other logits than by itself."""


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    attend: Attend | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    refused = [k for k in ("sliding_window", "softcap", "s_aux") if kwargs.get(k) is not None]
    if refused or attention_mask is not None or query.shape[0] != 1:
        raise InputError(
            f"{type(module).__name__} asks for {refused or 'a mask or several rows'}, which this "
            "backend's attention does not compute"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if attend is None:
        group = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(group, 1) for x in (key, value))
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
        return out.transpose(1, 2), None
    return attend(module.layer_idx, query[0], key[0], value[0], scale).transpose(0, 1)[None], None


class HookedModel:
    """``model`` made ready; its module is changed in place and stays usable by itself.

    Raises:
        InputError: its layers need more than full causal attention.
    """

    def __init__(self, model: Any) -> None:
        refuse_unsound(model.config)
        importlib.import_module("transformers").AttentionInterface.register(ATTENTION, _attend)
        self.model = model
        self.base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.base.set_attn_implementation(ATTENTION)
        self.decoder = self.base.get_decoder()
        self.head = self.base.get_output_embeddings()
        if self.head is None:
            raise InputError(f"{type(self.base).__name__} has no language-model head")
        config = self.base.config
        self.layers = int(config.num_hidden_layers)
        self.vocabulary = int(self.head.weight.shape[0])
        self.context = int(getattr(config, "max_position_embeddings", 0)) or None
        self._head_fp32: torch.Tensor | None = None
        self.layers_of_m2: M2Layers | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of activations and cache."""
        found: torch.dtype = self.base.get_input_embeddings().weight.dtype
        return found

    @property
    def small(self) -> bool:
        """Whether a call is so short that a second core only costs time (`threads`)."""
        if self.layers_of_m2 is None:
            return False
        weights: int = sum(p.numel() for p in self.base.parameters())
        return weights < SMALL

    def cores(self) -> AbstractContextManager[None]:
        """To be computed in: one core a call where the model is small."""
        return one_thread() if self.small else nullcontext()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        found: torch.device = self.head.weight.device
        return found

    def hidden(
        self, ids_T: torch.Tensor, positions_T: torch.Tensor, attend: Attend | None
    ) -> torch.Tensor:
        """Last hidden states, T x H; without ``attend`` the row is one causal sequence."""
        if self.layers_of_m2 is not None and attend is not None:
            return self.layers_of_m2(ids_T, positions_T, attend)
        out = self.decoder(
            input_ids=ids_T[None], position_ids=positions_T[None], use_cache=False, attend=attend
        )
        state: torch.Tensor = out.last_hidden_state
        return state[0]

    def logits(self, hidden_P_H: torch.Tensor) -> torch.Tensor:
        """fp32 logits of some positions, P x V (M1, arXiv 2506.13585: a head in fp32); with
        gradient where there is one. Models in float64 stay there."""
        kind = torch.promote_types(self.dtype, torch.float32)
        weight, bias = self.head.weight, getattr(self.head, "bias", None)
        if weight.dtype != kind:
            weight = weight.to(kind) if torch.is_grad_enabled() else self._frozen_head(kind)
        found = linear(hidden_P_H.to(kind), weight)
        return found if bias is None else found + bias.to(kind)

    def refresh(self) -> None:
        """The weights have changed; what was made of them is made anew in its place."""
        if self._head_fp32 is not None:
            with torch.no_grad():
                self._head_fp32.copy_(self.head.weight)

    def _frozen_head(self, kind: torch.dtype) -> torch.Tensor:
        if self._head_fp32 is None:
            self._head_fp32 = self.head.weight.detach().to(kind)
        return self._head_fp32

    def check(self, ids: Sequence[int] = (1, 2, 3, 5, 8)) -> float:
        """Compare with the model's own forward pass; the largest difference of a logprob.

        Heads that scale or cap their logits, and whatever else differs, are found here.

        Raises:
            ModelMismatchError: by more than rounding: 1e-3, in 16 bits 0.25 (the project's).
        """
        training = self.base.training
        self.base.eval()
        ids_T = torch.tensor([i % self.vocabulary for i in ids], device=self.device)
        with torch.no_grad():
            own = self.base(input_ids=ids_T[None], use_cache=False).logits[0]
            ours = self.logits(
                self.hidden(ids_T, torch.arange(len(ids_T), device=self.device), None)
            )
        self.base.train(training)
        worst = float((own.float().log_softmax(-1) - ours.float().log_softmax(-1)).abs().max())
        if not worst <= (0.25 if self.dtype in (torch.bfloat16, torch.float16) else 1e-3):
            raise ModelMismatchError(
                f"{type(self.base).__name__}: our logprobs differ from its own by {worst:.3g}; its "
                "head does more than a product (soft caps, scales), which is not supported"
            )
        return worst


OURS = "m2_triton"
"""The name of our experts in transformers' registry."""


def set_experts(model: Any, name: str) -> None:
    """Have a mixture's experts computed by the implementation of that name, ours or transformers'.

    Raises:
        InputError: there is none of that name, its package is missing, the model has no experts, or
            is not where ours run.
    """
    if name == OURS:
        try:
            importlib.import_module("m2gym.kernels.register").register()
        except ModuleNotFoundError as error:
            raise InputError(
                f"backend.experts={name} needs {error.name}: pip install 'm2gym[kernels]'"
            ) from error
        if model.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            raise InputError(
                f"backend.experts={name} needs a GPU, and the model is on {model.device}; leave it "
                "out there (TRITON_INTERPRET=1 runs the kernels on a CPU, for tests)"
            )
    if not any(
        hasattr(getattr(model, "config", None), n) for n in ("num_local_experts", "num_experts")
    ):
        raise InputError(f"backend.experts={name}: {type(model).__name__} has no experts")
    try:
        model.set_experts_implementation(name)
    except (ValueError, KeyError) as error:
        raise InputError(f"backend.experts: {error}") from error


def load_causal(path: str, *, dtype: torch.dtype | None = None, device: str = "cpu") -> Any:
    """A causal model from a folder in Hugging Face's format; nothing is downloaded.

    Raises:
        InputError: there is no such folder, or its files are damaged or no causal model's.
    """
    transformers: Any = importlib.import_module("transformers")
    damaged: Any = importlib.import_module("safetensors").SafetensorError
    if not (Path(path) / "config.json").is_file():
        within = Path(path) / "model"
        hint = "m2-nano ships with m2gym, gguf:PACKAGE and gguf:FILE are converted"
        if (within / "config.json").is_file():
            hint = f"a training run's weights are in {str(within)!r}"
        raise InputError(f"expected a folder with config.json and weights, got {path!r}; {hint}")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype or "auto", local_files_only=True
        )
    except (OSError, ValueError, damaged) as error:
        raise InputError(f"the model in {path!r} cannot be loaded: {error}") from error
    return model.to(device)
