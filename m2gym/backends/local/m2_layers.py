"""MiniMax-M2's layers on a CPU in few operations: transformers' own arithmetic on its own weights.

With layers this small the calls cost more than the arithmetic. Here norms are one call each, the
rotation of queries and keys is one for both, and the chosen experts are two grouped products over
tokens sorted by expert; nothing is padded. Gradients flow as they do in the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from m2gym.backends.local.products import linear
from m2gym.core.errors import M2GymError

if TYPE_CHECKING:
    from m2gym.backends.local.hooked import Attend, HookedModel

ALIGNED = 4
"""Numbers in 16 bytes of fp32: grouped products want rows of a multiple of them."""

MANY = 64
"""Rows an expert from which, without gradients, experts are computed one by one, what lies between
their two products still in the processor's cache; ours, measured. With gradients that is slower."""


class LayersMismatchError(M2GymError):
    """These layers give other hidden states than transformers' own."""


def expert_sum(
    x_T_H: torch.Tensor,
    index_T_K: torch.Tensor,
    weight_T_K: torch.Tensor,
    gate_up_E_J_H: torch.Tensor,
    down_E_H_I: torch.Tensor,
) -> torch.Tensor:
    """Weighted sum of every token's chosen experts, T x H; J is 2·I."""
    experts, top_k = gate_up_E_J_H.shape[0], index_T_K.shape[1]
    flat_P = index_T_K.reshape(-1)
    order_P = flat_P.argsort()
    count_E = torch.bincount(flat_P, minlength=experts)
    token_P = order_P.div(top_k, rounding_mode="floor")
    rows_P_H = x_T_H.index_select(0, token_P)
    weight_P = weight_T_K.reshape(-1).index_select(0, order_P)[:, None]
    out_T_H = torch.zeros_like(x_T_H)
    if torch.is_grad_enabled() or len(flat_P) < MANY * experts:
        ends_E = count_E.cumsum(0).to(torch.int32)
        gate, up = F.grouped_mm(rows_P_H, gate_up_E_J_H.transpose(1, 2), offs=ends_E).chunk(2, -1)
        inner = F.silu(gate) * up * weight_P
        out = F.grouped_mm(inner, down_E_H_I.transpose(1, 2), offs=ends_E)
        return out_T_H.index_add(0, token_P, out)
    split = [torch.split(x, count_E.tolist()) for x in (rows_P_H, weight_P, token_P)]
    for rows, weight, token, gate_up, down in zip(*split, gate_up_E_J_H, down_E_H_I, strict=True):
        if len(rows):
            gate, up = linear(rows, gate_up).chunk(2, -1)
            out_T_H.index_add_(0, token, linear(F.silu(gate) * up * weight, down))
    return out_T_H


class M2Layers:
    """The decoder of a `MiniMaxM2ForCausalLM` in fp32; see `applies`."""

    def __init__(self, base: Any) -> None:
        self.decoder, config = base.get_decoder(), base.config
        self.heads, self.keys = int(config.num_attention_heads), int(config.num_key_value_heads)
        self.width, self.top_k = int(config.head_dim), int(config.num_experts_per_tok)
        self.eps = float(config.rms_norm_eps)
        self._turns = torch.empty(2, 0)

    def __call__(
        self, ids_T: torch.Tensor, positions_T: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        """The last norm's output, T x H."""
        decoder = self.decoder
        state = F.embedding(ids_T, decoder.embed_tokens.weight)
        cos, sin = self._angles(positions_T)
        for number, layer in enumerate(decoder.layers):
            x = self._norm(state, layer.input_layernorm)
            state = state + self._attention(number, layer.self_attn, x, cos, sin, attend)
            x = self._norm(state, layer.post_attention_layernorm)
            state = state + self._mixture(layer.mlp, x)
        return self._norm(state, decoder.norm)

    def _norm(self, x: torch.Tensor, norm: Any) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:], norm.weight, self.eps)

    def _angles(self, positions_T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and signed sines, T x 1 x what is rotated."""
        most, turns = int(positions_T.max()) + 1, self._turns
        if most > turns.shape[1]:
            frequency = self.decoder.rotary_emb.inv_freq
            angle = torch.arange(2 * most)[:, None].float() * frequency[None]
            cos, sin = angle.cos()[:, None], angle.sin()[:, None]
            turns = torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)))
            self._turns = turns
        return turns[0, positions_T], turns[1, positions_T]

    def _attention(
        self,
        number: int,
        attention: Any,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        attend: Attend,
    ) -> torch.Tensor:
        tokens = len(x)
        q = self._norm(linear(x, attention.q_proj.weight), attention.q_norm)
        k = self._norm(linear(x, attention.k_proj.weight), attention.k_norm)
        v = linear(x, attention.v_proj.weight).view(tokens, self.keys, self.width)
        both = torch.cat((q, k), -1).view(tokens, self.heads + self.keys, self.width)
        width = cos.shape[-1]
        first, kept = torch.split(both, [width, self.width - width], -1)
        turned = torch.addcmul(first * cos, first.roll(width // 2, -1), sin)
        turned = torch.cat((turned, kept), -1).transpose(0, 1)
        q, k = torch.split(turned, [self.heads, self.keys])
        out = attend(
            number,
            q,
            k,
            v.transpose(0, 1),
            float(attention.scaling),
        )
        return linear(out.transpose(0, 1).reshape(tokens, -1), attention.o_proj.weight)

    def _mixture(self, block: Any, x: torch.Tensor) -> torch.Tensor:
        score = torch.sigmoid(linear(x, block.gate.weight))
        with torch.no_grad():
            chosen = score + block.e_score_correction_bias
            index = chosen.topk(self.top_k, -1, sorted=False).indices
        weight = score.gather(1, index)
        weight = weight / weight.sum(-1, keepdim=True)
        experts = block.experts
        return expert_sum(x, index, weight, experts.gate_up_proj, experts.down_proj)


def applies(base: Any) -> bool:
    """Whether a model is computed right by `M2Layers`: M2's architecture in fp32 on the CPU."""
    config = base.config
    if getattr(config, "model_type", "") != "minimax_m2" or base.device.type != "cpu":
        return False
    if not hasattr(F, "grouped_mm"):
        return False
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        all(p.dtype == torch.float32 for p in base.parameters())
        and rope.get("rope_type") == "default"
        and config.hidden_act == "silu"
        and not config.router_jitter_noise
        and not config.attention_dropout
        and config.hidden_size % ALIGNED == 0 == config.intermediate_size % ALIGNED
    )


def use_layers(hooked: HookedModel) -> bool:
    """Have a plain model (no adapters) computed by `M2Layers` where that applies.

    Raises:
        LayersMismatchError: hidden states differ by more than rounding.
    """
    if hooked.model is not hooked.base or not applies(hooked.base):
        return False
    layers = M2Layers(hooked.base)

    def causal(
        layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
    ) -> torch.Tensor:
        k, v = (x.repeat_interleave(q.shape[0] // k.shape[0], 0) for x in (k, v))
        out: torch.Tensor = F.scaled_dot_product_attention(
            q[None], k[None], v[None], is_causal=True, scale=scale
        )
        return out[0]

    ids_T, positions_T = torch.arange(1, 9) % hooked.vocabulary, torch.arange(8)
    with torch.no_grad():
        own = hooked.hidden(ids_T, positions_T, None)
        ours = layers(ids_T, positions_T, causal)
    worst = float((own - ours).abs().max())
    if not worst <= 1e-4 * max(1.0, float(own.abs().max())):
        raise LayersMismatchError(f"hidden states differ by {worst:.3g} from transformers' own")
    hooked.layers_of_m2 = layers
    return True
