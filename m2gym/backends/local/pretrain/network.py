"""M2's forward pass on a model's own weights, written so that it compiles to few large kernels.

All experts are computed for every token in two products; what the router did not choose has weight
0. That is 8 times the arithmetic of the chosen two of sixteen, and still the fastest at these sizes
on a GPU: nothing is gathered, and the products are large. Logits equal transformers' own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Network(nn.Module):
    """``model`` is transformers' `MiniMaxM2ForCausalLM`; ``dtype`` that of the products."""

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model, self.kind = model, dtype
        config = model.config
        self.heads, self.keys = config.num_attention_heads, config.num_key_value_heads
        self.width, self.top_k = config.head_dim, config.num_experts_per_tok
        self.eps = config.rms_norm_eps

    def forward(
        self, ids_B_T: torch.Tensor, target_B_T: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Negative log-likelihood of every target (B x T) and each expert's tokens (L x E)."""
        state, load_L_E = self.hidden(ids_B_T)
        return self.surprise(state, target_B_T), load_L_E

    def surprise(self, state: torch.Tensor, target_B_T: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood (B x T) of targets, from what the last norm gave."""
        logits = self.logits(state).flatten(0, 1).float()
        nll = F.cross_entropy(logits, target_B_T.flatten(), reduction="none")
        return nll.view(target_B_T.shape)

    def logits(self, state: torch.Tensor) -> torch.Tensor:
        """The head's (B x T x V), in the type of the products."""
        found: torch.Tensor = (
            state.to(self.kind) @ self.model.model.embed_tokens.weight.to(self.kind).T
        )
        return found

    def hidden(self, ids_B_T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The last norm's output (B x T x H) and each expert's tokens (L x E)."""
        decoder = self.model.model
        state = F.embedding(ids_B_T, decoder.embed_tokens.weight)
        angles = self.angles(ids_B_T.shape[1], ids_B_T.device)
        loads = []
        for layer in decoder.layers:
            state, load_E = self.layer(layer, state, angles)
            loads.append(load_E)
        return self._norm(state, decoder.norm.weight), torch.stack(loads)

    def layer(
        self, layer: Any, state: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A decoder layer's output (B x T x H) and each of its experts' tokens (E)."""
        x = self._norm(state, layer.input_layernorm.weight)
        state = state + self._attention(layer.self_attn, x, *angles)
        x = self._norm(state, layer.post_attention_layernorm.weight)
        out, load_E = self._experts(layer.mlp, x)
        return state + out, load_E

    def angles(self, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of the rotary positions 0 to ``length - 1``."""
        frequency = self.model.model.rotary_emb.inv_freq
        angle = torch.arange(length, device=device)[:, None].float() * frequency[None]
        angle = torch.cat((angle, angle), -1)
        return angle.cos(), angle.sin()

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        x = x.float()
        found: torch.Tensor = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        out: torch.Tensor = weight * found
        return out

    def _attention(
        self, attention: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        batch, length, _ = x.shape
        x = x.to(self.kind)
        q, k, v = (
            x @ part.weight.to(self.kind).T
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q = self._norm(q, attention.q_norm.weight).view(batch, length, self.heads, self.width)
        k = self._norm(k, attention.k_norm.weight).view(batch, length, self.keys, self.width)
        v = v.view(batch, length, self.keys, self.width)
        q, k = (_rotated(y.transpose(1, 2), cos, sin).to(self.kind) for y in (q, k))
        group = self.heads // self.keys
        k, v = (y.repeat_interleave(group, 1) for y in (k, v.transpose(1, 2)))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out = out.transpose(1, 2).reshape(batch, length, -1)
        summed: torch.Tensor = out @ attention.o_proj.weight.to(self.kind).T
        return summed

    def _experts(self, block: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        experts = block.experts
        count, double, width = experts.gate_up_proj.shape
        weight = torch.sigmoid(x @ block.gate.weight.T)
        if count > 1:
            choice = weight.detach() + block.e_score_correction_bias
            index = choice.topk(self.top_k, -1, sorted=False).indices
            chosen = torch.zeros_like(weight).scatter(-1, index, 1.0)
            weight = weight * chosen
            load_E = chosen.sum((0, 1))
        else:
            load_E = weight.new_full((1,), float(weight.numel()))
        weight = weight / weight.sum(-1, keepdim=True)
        flat = experts.gate_up_proj.to(self.kind).view(count * double, width)
        gate, up = (x.to(self.kind) @ flat.T).unflatten(-1, (count, 2, double // 2)).unbind(-2)
        inner = F.silu(gate) * up * weight.to(self.kind)[..., None]
        down = experts.down_proj.to(self.kind).transpose(1, 2).reshape(-1, width)
        return inner.flatten(-2) @ down, load_E


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    turned, kept = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turned.chunk(2, -1)
    turned = turned * cos + torch.cat((-second, first), -1) * sin
    return torch.cat((turned, kept), -1)
