"""The machine's record: processor, memory, and cards without importing torch."""

import subprocess
import sys

import pytest

from m2gym.rollout import machine

SMI = """#!/bin/sh
case "$*" in *name,memory.total,driver_version*) ;; *) exit 3;; esac
{answer}
"""


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Puts a program ``nvidia-smi`` on PATH that answers so."""

    def put(answer):
        program = tmp_path / "nvidia-smi"
        program.write_text(SMI.format(answer=answer))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        machine.gpus.cache_clear()

    yield put
    machine.gpus.cache_clear()


def test_cards_are_named_with_memory_and_driver(smi):
    smi('echo "NVIDIA H100 80GB HBM3, 81559, 570.1"; echo "Odd, Card, [N/A], 570.1"')
    assert machine.machine()["gpus"] == [
        {"name": "NVIDIA H100 80GB HBM3", "memory_mb": 81559, "driver": "570.1"},
        {"name": "Odd, Card", "memory_mb": None, "driver": "570.1"},
    ]


def test_a_program_that_fails_leaves_them_out(smi, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    smi("exit 9")
    found = machine.machine()
    assert "gpus" not in found
    assert found["memory_mb"] > 100
    assert found["cpus"] >= 1


def test_torch_is_not_imported_for_it():
    program = (
        "import sys\nfrom m2gym.rollout.machine import machine\nmachine()\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
