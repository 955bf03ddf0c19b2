"""Attention in pieces against attention over all keys at once."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is in extra 'train'")

from m2gym.backends.local.attention import join, pieces, plain_block  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_pieces_joined_are_attention_over_all_keys(dtype, atol):
    """Also where a piece, or all but one key, is hidden from a query."""
    torch.manual_seed(0)
    random = {"device": DEVICE, "dtype": dtype}
    q, k, v = torch.randn(6, 5, 16, **random), *torch.randn(2, 6, 256, 16, **random)
    mask = torch.zeros(5, 256, **random)
    for query, seen in enumerate((256, 200, 64, 17, 1)):
        mask[query, seen:] = -3e4
    want, _ = plain_block(*(x.float()[None] for x in (q, k, v)), 0.25, mask=mask.float())
    parts = [
        pieces(q, k[:, part], v[:, part], 0.25, mask[None, :, part], length)
        for part, length in ((slice(0, 128), 64), (slice(128, 256), 32))
    ]
    found = join(parts, 1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, want[0], atol=atol, rtol=atol)
