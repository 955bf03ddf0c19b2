"""Our kernels in verl's engine, by one line of the configuration; under Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.backends.verl.needs import config, verl_here
from tests.backends.verl.test_parity import by_verl, episodes

pytestmark = [pytest.mark.verl, pytest.mark.timeout(1800)]

LINE = "actor_rollout_ref.model.override_config._experts_implementation"
BOUND = 1e-4
"""Of the loss absolute, of the gradients relative in norm, as between `local` and verl."""


def test_experts_by_one_line(tmp_path: Path) -> None:
    """In a process of its own: triton is an interpreter from its first import on, or never."""
    verl_here()
    pytest.importorskip("triton", reason="needs triton beside verl: pip install 'm2gym[kernels]'")
    done = subprocess.run(
        [sys.executable, "-m", "tests.backends.verl.test_kernels", str(tmp_path)],
        env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def main(folder: Path) -> None:
    """Loss and gradients of m2-nano on four episodes, with the line and without it."""
    verl_here()
    from m2gym.kernels import register

    kernels, calls = register.experts, []

    def counted(hidden: Any, *rest: Any, **own: Any) -> Any:
        calls.append(len(hidden))
        return kernels(hidden, *rest, **own)

    register.experts = counted
    groups = [group[1:] for group in episodes(np.random.default_rng(3))]
    found = []
    for line in ({}, {LINE: "m2_triton"}):
        assert not calls
        found.append(by_verl(config(folder, backend={"id": "verl", "verl": line}), groups))
    assert len(calls) >= 6, "every layer has experts"
    (loss, plain), (other, ours) = found
    whole = sum(float(g.double().pow(2).sum()) for g in plain.values()) ** 0.5
    apart = sum(float((plain[n] - ours[n]).double().pow(2).sum()) for n in plain) ** 0.5
    print(f"loss {loss} {other}, gradients {apart / whole:.2e} of {whole}, calls {calls}")
    assert whole > 0
    assert set(plain) == set(ours)
    assert abs(loss - other) <= BOUND
    assert apart <= BOUND * whole


if __name__ == "__main__":
    main(Path(sys.argv[1]))
