"""MiniMax-M2's layers on a CPU in few operations: transformers' own arithmetic on its own weights.

With layers this small the calls cost more than the arithmetic. Here norms are one call each, the
rotation of queries and keys is one for both, and the chosen experts are two grouped products over
tokens sorted by expert; nothing is padded. Gradients flow as they do in the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from m2gym.core.errors import M2GymError

if TYPE_CHECKING:
    from m2gym.backends.local.hooked import Attend, HookedModel

ALIGNED = 4
"""Numbers in 16 bytes of fp32: grouped products want rows of a multiple of them."""


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
    ends_E = torch.bincount(flat_P, minlength=experts).cumsum(0).to(torch.int32)
    token_P = order_P.div(top_k, rounding_mode="floor")
    rows = x_T_H.index_select(0, token_P)
    gate, up = F.grouped_mm(rows, gate_up_E_J_H.transpose(1, 2), offs=ends_E).chunk(2, -1)
    weight_P = weight_T_K.reshape(-1).index_select(0, order_P)
    inner = F.silu(gate) * up * weight_P[:, None]
    out = F.grouped_mm(inner, down_E_H_I.transpose(1, 2), offs=ends_E)
    return torch.zeros_like(x_T_H).index_add(0, token_P, out)


class M2Layers:
    """The decoder of a `MiniMaxM2ForCausalLM` in fp32; see `applies`."""

    def __init__(self, base: Any) -> None:
        self.decoder, config = base.get_decoder(), base.config
        self.heads, self.keys = int(config.num_attention_heads), int(config.num_key_value_heads)
        self.width, self.top_k = int(config.head_dim), int(config.num_experts_per_tok)
        self.eps = float(config.rms_norm_eps)
        self._cos = self._sin = torch.empty(0, 0)

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
        """Cosines and sines, T x 1 x half of what is rotated."""
        most = int(positions_T.max()) + 1
        if most > len(self._cos):
            frequency = self.decoder.rotary_emb.inv_freq
            angle = torch.arange(2 * most)[:, None].float() * frequency[None]
            self._cos, self._sin = angle.cos()[:, None], angle.sin()[:, None]
        return self._cos[positions_T], self._sin[positions_T]

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
        q = self._norm(F.linear(x, attention.q_proj.weight), attention.q_norm)
        k = self._norm(F.linear(x, attention.k_proj.weight), attention.k_norm)
        v = F.linear(x, attention.v_proj.weight).view(tokens, self.keys, self.width)
        both = torch.cat((q, k), -1).view(tokens, self.heads + self.keys, self.width)
        half = cos.shape[-1]
        first, second, kept = both[..., :half], both[..., half : 2 * half], both[..., 2 * half :]
        turned = torch.cat(
            (first * cos - second * sin, second * cos + first * sin, kept), -1
        ).transpose(0, 1)
        out = attend(
            number,
            turned[: self.heads],
            turned[self.heads :],
            v.transpose(0, 1),
            float(attention.scaling),
        )
        return F.linear(out.transpose(0, 1).reshape(tokens, -1), attention.o_proj.weight)

    def _mixture(self, block: Any, x: torch.Tensor) -> torch.Tensor:
        score = torch.sigmoid(F.linear(x, block.gate.weight))
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
