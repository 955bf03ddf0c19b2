"""The curves of pre-training runs, from their ``log.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHOTS = 3


def read(log: Path) -> list[dict[str, Any]]:
    """A log's rows, with millions of tokens (``tokens``) so far."""
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    each = 0.0
    for row in rows:
        if "settings" in row:
            each = row["settings"]["rows"] * (row["settings"]["length"] - 1) / 1e6
        row["tokens"] = row.get("step", 0) * each
    return rows


def plot(logs: Mapping[str, Path], path: Path) -> None:
    """Loss (thin: of the module ahead), success with three examples of the one tool there is, and
    balance (worst layer), by tokens."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    loss, success, load = figure.subplots(1, 3)
    for number, (name, log) in enumerate(logs.items()):
        rows, colour = read(log), f"C{number}"
        lost = [row for row in rows if "loss" in row]
        at = [row["tokens"] for row in lost]
        loss.semilogy(at, [row["loss"] for row in lost], color=colour, label=name)
        loss.semilogy(at, [row["mtp_loss"] for row in lost], color=colour, lw=0.6)
        load.plot(at, [row["load_max"] for row in lost], color=colour, label=name)
        for novelty, style in (("combination", "-"), ("unseen", "--")):
            measured = [row for row in rows if novelty in row]
            success.plot(
                [row["tokens"] for row in measured],
                [row[novelty]["success_1"][SHOTS] for row in measured],
                f"o{style}",
                color=colour,
                ms=3,
                label=f"{name}, {novelty}",
            )
    loss.set(title="loss (thin: of the token after it)", ylabel="nats")
    success.set(title="success with 3 examples", ylim=(0, 1.02))
    load.set(title="busiest expert's load over the mean", yscale="log", ylim=(0.9, 9))
    load.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    load.minorticks_off()
    for ax in (loss, success, load):
        ax.set(xlabel="million tokens")
        ax.grid(alpha=0.25)
        ax.legend(fontsize=8)
    figure.savefig(path, dpi=110)
