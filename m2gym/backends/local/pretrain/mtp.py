"""Multi-token prediction: a module that says the token after the next.

M2 pre-trains one such module with the loss's weight 0.3, then 0.1 [M2, arXiv 2605.26494, §2]; its
form here is DeepSeek-V3's (arXiv 2412.19437, §2.2): the last hidden state at t and the embedding of
token t + 1, each normed, side by side through a matrix into one more decoder layer, whose output
the shared head turns into token t + 2. Ours: that layer is dense, which keeps all of m2-nano under
4M parameters, and 0.1 begins where the rate begins to fall. It drafts tokens for speculative
decoding; nothing here uses it yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from m2gym.backends.local.pretrain.network import Network
from m2gym.core.errors import InputError
from m2gym.models.nano.shape import DENSE, build

FILE = "mtp.safetensors"
WEIGHT, LATE_WEIGHT = 0.3, 0.1
"""Of its loss, before and after the rate begins to fall."""


class Ahead(nn.Module):
    """The module's weights; embedding and head are the model's."""

    def __init__(self) -> None:
        super().__init__()
        width = DENSE["hidden_size"]
        self.hidden_norm = nn.RMSNorm(width, DENSE["rms_norm_eps"])
        self.token_norm = nn.RMSNorm(width, DENSE["rms_norm_eps"])
        self.joined = nn.Linear(2 * width, width, bias=False)
        self.layer = build({**DENSE, "num_hidden_layers": 1}).model.layers[0]
        self.norm = nn.RMSNorm(width, DENSE["rms_norm_eps"])

    def save(self, folder: Path) -> None:
        """Into ``mtp.safetensors`` beside the model's weights."""
        from safetensors.torch import save_file

        own = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(own, str(folder / FILE))

    @classmethod
    def load(cls, folder: Path) -> Ahead:
        """Of a model's folder; `InputError` where it has none."""
        from safetensors.torch import load_file

        if not (folder / FILE).is_file():
            raise InputError(f"{folder} has no {FILE}; a model of pretrain_m2_nano.py has one")
        made = cls()
        made.load_state_dict(load_file(str(folder / FILE)))
        return made.eval()


class TwoTokens(nn.Module):
    """A `Network` and its `Ahead`, in one forward pass."""

    def __init__(self, network: Network, ahead: Ahead) -> None:
        super().__init__()
        self.network, self.ahead = network, ahead

    def forward(
        self, ids_B_T: torch.Tensor, target_B_T: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`Network`'s two results, and the module's surprise by ``target[:, 1:]``, B x (T - 1).

        ``ids`` are tokens 0 to T - 1, ``target`` 1 to T.
        """
        state, load_L_E = self.network.hidden(ids_B_T)
        drafted = self.drafted(state[:, :-1], target_B_T[:, :-1])
        nll_B_T = self.network.surprise(state, target_B_T)
        return nll_B_T, load_L_E, self.network.surprise(drafted, target_B_T[:, 1:])

    def drafted(self, state: torch.Tensor, token_B_T: torch.Tensor) -> torch.Tensor:
        """What the head turns into the token after ``token``, B x T x H.

        ``state`` is the last hidden state (B x T x H) of which ``token`` is the next token.
        """
        own, kind = self.ahead, self.network.kind
        token = F.embedding(token_B_T, self.network.model.model.embed_tokens.weight)
        both = torch.cat((own.hidden_norm(state.float()), own.token_norm(token)), -1)
        x = both.to(kind) @ own.joined.weight.to(kind).T
        x, _ = self.network.layer(own.layer, x.float(), self.network.angles(x.shape[1], x.device))
        out: torch.Tensor = own.norm(x)
        return out


@torch.no_grad()
def drafts(
    both: TwoTokens, ids_B_T: torch.Tensor, target_B_T: torch.Tensor, trained_B_T: Any
) -> dict[str, float]:
    """How often, where the target is trained, the model's likeliest token is the target
    (``next_right``), the module's is (``draft_right``), and the two agree (``accepted``: what
    greedy speculative decoding would keep of drafts)."""
    state, _ = both.network.hidden(ids_B_T)
    drafted = both.drafted(state[:, :-1], target_B_T[:, :-1])
    trained = trained_B_T[:, 1:]
    own = both.network.logits(state[:, 1:]).argmax(-1)[trained]
    draft = both.network.logits(drafted).argmax(-1)[trained]
    target = target_B_T[:, 1:][trained]
    shares = {
        "next_right": own == target,
        "draft_right": draft == target,
        "accepted": draft == own,
    }
    return {name: round(float(hit.float().mean()), 4) for name, hit in shares.items()}
