import os
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is in extra 'train'")

from m2gym.backends.local.memory import give_back, keep_freed  # noqa: E402

MB = 2**20


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_kept_until_it_is_given_back():
    if not keep_freed():
        pytest.skip("another C library")
    give_back()
    before = resident()
    held = [torch.ones(MB // 4) for _ in range(200)]
    assert resident() > before + 150 * MB
    del held
    assert resident() > before + 100 * MB
    assert give_back()
    assert resident() < before + 50 * MB
