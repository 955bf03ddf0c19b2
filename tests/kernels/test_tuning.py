"""Tiles of a card whose tiles were measured, and of one whose were not."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch

from m2gym.kernels import tree_kernel, tuning
from m2gym.kernels.tuning import Product, Tiles, logits_tiles, tiles, within

CUDA = torch.device("cuda")
PRODUCTS: tuple[Product, ...] = ("up", "down", "d_inner", "d_rows", "d_down", "d_gate_up")


def on_a_card(monkeypatch: pytest.MonkeyPatch, name: str, shared: int) -> None:
    """What torch would say on that card, which has ``shared`` bytes a program."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    told = SimpleNamespace(shared_memory_per_block_optin=shared)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: told)
    monkeypatch.setattr(tuning, "_said", set())


@pytest.mark.parametrize("name", tuning.TABLES)
def test_a_tuned_card_has_its_table_and_says_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_card(monkeypatch, f"{name} 80GB HBM3", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for product in PRODUCTS[:4]:
            found = tiles(product, 128, 3072, 3072, torch.bfloat16, CUDA)
            assert found == tuning.TABLES[name][product, 128]
        logits_tiles(torch.bfloat16, CUDA)
        assert tree_kernel.shapes(CUDA) is tree_kernel.HOPPER


@pytest.mark.parametrize("first", ["experts", "logits", "tree"])
def test_an_untuned_card_works_and_says_once_that_it_is_untuned(
    first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_card(monkeypatch, "NVIDIA B200", 232_448)
    asked = {
        "experts": lambda: tiles("down", 128, 3072, 1536, torch.bfloat16, CUDA),
        "logits": lambda: logits_tiles(torch.bfloat16, CUDA),
        "tree": lambda: tree_kernel.shapes(CUDA),
    }
    with pytest.warns(UserWarning, match=r"NVIDIA B200 is untuned.*--tune"):
        asked[first]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for ask in asked.values():
            ask()
    hopper = tuning.TABLES["NVIDIA H200"]["down", 128]
    assert asked["experts"]() == hopper, "as large as Hopper's shared memory allows"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float8_e4m3fn])
@pytest.mark.parametrize("shared", [101_376, 166_912, 232_448])
def test_an_untuned_cards_tiles_fit_its_shared_memory(
    shared: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_card(monkeypatch, "NVIDIA of another kind", shared)
    with pytest.warns(UserWarning, match="untuned"):
        found = [(logits_tiles(dtype, CUDA), False)]
    for product in PRODUCTS:
        for align in (16, 64, 128):
            cut = tiles(product, align, 3072, 1536, dtype, CUDA)
            found.append((cut, product == "up"))
            assert 3072 % cut.cols == 0
            assert cut.rows == align or product.startswith(("d_down", "d_gate"))
    for cut, pair in found:
        operands = cut.stages * (cut.rows + cut.cols * (1 + pair)) * cut.depth * dtype.itemsize
        assert operands + cut.rows * cut.cols * max(dtype.itemsize, 2) < shared
        assert min(cut.rows, cut.cols, cut.depth) >= 16
        assert cut.stages >= 2


def test_what_cannot_be_made_smaller_stays() -> None:
    assert within(Tiles(128, 32, 32, 8, 2), 2, 1024) == Tiles(128, 32, 32, 8, 2)
