"""The kernels under transformers' registries.

    from m2gym.kernels.register import register
    register()
    model = AutoModelForCausalLM.from_pretrained(
        path, experts_implementation="m2_triton", attn_implementation="m2_tree"
    )

Nothing falls back: a model that the kernels cannot run raises ``KernelRefusal``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.integrations import moe
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.minimax_m2.modeling_minimax_m2 import eager_attention_forward

from m2gym.kernels.experts import experts
from m2gym.kernels.fp8 import quantize_experts
from m2gym.kernels.norm import rms_norm
from m2gym.kernels.rotary import norm_rotary
from m2gym.kernels.support import KernelRefusal
from m2gym.kernels.tree_attention import tree_attention

EXPERTS = "m2_triton"
EXPERTS_FP8 = "m2_triton_fp8"
ATTENTION = "m2_tree"
# What transformers' models pass to an attention that computes more than ours does.
_OTHER_ATTENTION = ("sliding_window", "softcap", "s_aux", "position_bias", "head_mask")


def _refuse(module: Any, reason: str) -> None:
    raise KernelRefusal(
        f"{EXPERTS}: {type(module).__name__} {reason}; load the model with "
        'experts_implementation="grouped_mm" or "eager"'
    )


def experts_forward(
    self: Any,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """Transformers' experts interface on ``experts.experts``.

    Under the name ``m2_triton_fp8`` (`experts_forward_fp8`) the forward is in 8 bits.

    Raises:
        KernelRefusal: experts without a gate, with biases, in another layout, or with another
            activation than SiLU; and whatever ``experts.experts`` refuses.
    """
    _check(self)
    return experts(hidden_states, self.gate_up_proj, self.down_proj, top_k_index, top_k_weights)


def experts_forward_fp8(
    self: Any,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """`experts_forward` with the forward's products in 8 bits, the backward's in 16.

    The 8-bit weights are made when they are first needed and again after an optimiser's step has
    changed the 16-bit ones; they stay beside them, half as large.
    """
    _check(self)
    weights = self.gate_up_proj, self.down_proj
    state = tuple((weight.data_ptr(), weight._version) for weight in weights)
    if getattr(self, "_m2_fp8_of", None) != state:
        self._m2_fp8, self._m2_fp8_of = quantize_experts(*weights), state
    return experts(hidden_states, *weights, top_k_index, top_k_weights, fp8=self._m2_fp8)


def _check(self: Any) -> None:
    if not self.has_gate:
        _refuse(self, "has no gate")
    if self.has_bias:
        _refuse(self, "has biases")
    if self.is_transposed or not self.is_concatenated:
        _refuse(self, "lays its weights out in another way than (E, 2I, H) gate then up")
    plain_gate = type(self)._apply_gate is moe._default_apply_gate
    if not plain_gate or not isinstance(self.act_fn, nn.SiLU | _silu_types()):
        _refuse(self, "has another gate than silu(gate) * up")


def _silu_types() -> Any:
    from transformers.activations import ACT2FN

    return type(ACT2FN["silu"])


def attention_forward(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: tuple[Sequence[int], Sequence[int]] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' attention interface on ``tree_attention``.

    Call the model with ``tree=(starts, parents)`` and the tree's ``position_ids`` (a branch
    continues from its parent); without a tree the row is one causal sequence.

    Raises:
        KernelRefusal: a batch of more than one row, a mask, dropout, a key-value cache, or another
            attention than causal softmax (a sliding window, a soft cap, sinks, a bias).
    """
    if query.shape[0] != 1 or attention_mask is not None or dropout:
        raise KernelRefusal(
            f"{ATTENTION}: takes one row (all tokens of one or several trees) without mask or "
            f"dropout; got a batch of {query.shape[0]}, mask {attention_mask is not None}, "
            f"dropout {dropout}"
        )
    others = sorted(name for name in _OTHER_ATTENTION if kwargs.get(name) is not None)
    if others or False in (kwargs.get("is_causal"), getattr(module, "is_causal", True)):
        raise KernelRefusal(
            f"{ATTENTION}: {type(module).__name__} wants {others or 'attention both ways'}; causal "
            "softmax attention without it is all that is computed here"
        )
    if key.shape[2] != query.shape[2]:
        raise KernelRefusal(
            f"{ATTENTION}: takes whole trees, not a key-value cache of {key.shape[2]} rows for "
            f"{query.shape[2]} tokens; generate with another attention"
        )
    starts, parents = tree if tree is not None else ([0, query.shape[2]], [-1])
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    out = tree_attention(q, k, v, starts, parents, scale=scaling)
    return out[None], None


def register() -> None:
    """Make ``m2_triton`` and ``m2_triton_fp8`` experts and ``m2_tree`` attention known to
    transformers; idempotent."""
    moe.ALL_EXPERTS_FUNCTIONS.register(EXPERTS, experts_forward)
    moe.ALL_EXPERTS_FUNCTIONS.register(EXPERTS_FP8, experts_forward_fp8)
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attention_forward)
    # A mask of padding comes through, to be refused; without this transformers drops it.
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, flash_attention_mask)


def fuse_norms(model: nn.Module) -> int:
    """Give every RMSNorm of ``model`` the fused kernel, in place; how many there were.

    A norm is known by its class's name (``…RMSNorm``) and its ``weight`` and
    ``variance_epsilon``, as transformers' decoders have them.

    Raises:
        KernelRefusal: the model has none.
    """
    count = 0
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.forward = _norm_forward(module)
            count += 1
    if not count:
        raise KernelRefusal(
            f"rms_norm: {type(model).__name__} holds no RMSNorm with a weight and a "
            "variance_epsilon; leave its norms as they are"
        )
    return count


def fuse_rotary(model: nn.Module) -> int:
    """Give every M2 attention of ``model`` one pass for norm and rotary embedding of q and k, in
    place; how many there were. Call it beside ``fuse_norms``, in any order.

    Raises:
        KernelRefusal: the model has no attention that norms its flattened q and k as M2 does.
    """
    count = 0
    for module in model.modules():
        if type(module).__name__ == "MiniMaxM2Attention":
            module.forward = _attention_forward(module)
            count += 1
    if not count:
        raise KernelRefusal(
            f"norm_rotary: {type(model).__name__} holds no MiniMaxM2Attention; other models norm "
            "q and k by head, or not at all: leave their attention as it is"
        )
    return count


def _attention_forward(module: Any) -> Any:
    def forward(
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        cache: Any = None,
        past_key_values: Any = None,  # the cache's name in transformers before 5.24
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        cache = past_key_values if cache is None else cache
        rows, tokens = hidden_states.shape[:2]
        # One row of positions for all rows, or one each: both as a flat list.
        cos, sin = (t.flatten(0, 1) for t in position_embeddings)

        def turned(project: Any, norm: Any) -> torch.Tensor:
            x = norm_rotary(
                project(hidden_states), norm.weight, cos, sin, norm.variance_epsilon,
                module.head_dim,
            )  # fmt: skip
            return x.view(rows, tokens, -1, module.head_dim).transpose(1, 2)

        query = turned(module.q_proj, module.q_norm)
        key = turned(module.k_proj, module.k_norm)
        value = module.v_proj(hidden_states).view(rows, tokens, -1, module.head_dim)
        value = value.transpose(1, 2)
        if cache is not None:
            key, value = cache.update(key, value, module.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            module.config._attn_implementation, eager_attention_forward
        )
        out, weights = attend(
            module, query, key, value, attention_mask,
            dropout=module.attention_dropout if module.training else 0.0, scaling=module.scaling,
            **kwargs,
        )  # fmt: skip
        return module.o_proj(out.reshape(rows, tokens, -1).contiguous()), weights

    return forward


def _norm_forward(module: Any) -> Any:
    def forward(hidden_states: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden_states, module.weight, module.variance_epsilon)

    return forward
