"""AdamW over masters equals AdamW over fp32 weights whose gradients are added up plainly."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is in extra 'train'")

from m2gym.backends.local.optimiser import MasterAdamW  # noqa: E402
from m2gym.backends.train_config import TrainSettings  # noqa: E402


@pytest.mark.parametrize("clip", [None, 1e-3, 1e6])
def test_updates_of_several_micro_batches_one_of_them_given_up(clip):
    torch.manual_seed(0)
    layers = torch.nn.ModuleList([torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)]).bfloat16()
    settings = TrainSettings(lr=1e-2, clip=clip)
    optimiser = MasterAdamW(layers, settings)
    plain = [p.detach().float().requires_grad_() for p in layers.parameters()]
    adamw = torch.optim.AdamW(
        plain, lr=1e-2, betas=settings.betas, eps=settings.eps, weight_decay=0.0
    )

    def micro_batch(second):
        x = torch.randn(6, 5).bfloat16()
        out = layers[0](x)
        (layers[1](out) if second else out).square().sum().backward()

    for update in range(4):
        if update == 2:
            micro_batch(True)
            optimiser.collect()
            optimiser.clear()
        for second in (update != 3, False, True):
            micro_batch(second)
            for p, q in zip(layers.parameters(), plain, strict=True):
                if p.grad is not None:
                    q.grad = p.grad.float() + (0 if q.grad is None else q.grad)
            optimiser.collect()
        norm = torch.nn.utils.clip_grad_norm_(plain, float("inf") if clip is None else clip)
        adamw.step()
        adamw.zero_grad()
        assert optimiser.step(1e-2) == pytest.approx(float(norm))
        for master, q, p in zip(optimiser.masters, plain, layers.parameters(), strict=True):
            torch.testing.assert_close(master, q.detach(), atol=1e-6, rtol=1e-5)
            assert torch.equal(p, master.bfloat16())
            assert master.grad is None
