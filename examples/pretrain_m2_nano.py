"""Pre-train m2-nano from nothing: tokenizer, corpus, model. See docs/m2-nano.md.

    python examples/pretrain_m2_nano.py tokenizer FOLDER          # train the tokenizer, seconds
    python examples/pretrain_m2_nano.py train OUT [--resume] [--stop-after 480] [--set lr=0.004 …]
    python examples/pretrain_m2_nano.py plot PNG MoE=OUT/log.jsonl …

Without `--tokenizer` the one that ships is used. A stopped run goes on with `--resume`.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import yaml

from m2gym.backends.local.pretrain import corpus, curves
from m2gym.backends.local.pretrain.run import Pretraining, Settings
from m2gym.models import nano
from m2gym.models.nano.vocabulary import train_tokenizer

TEXTS = 20_000
"""Worlds whose texts the tokenizer is trained on."""


def loaded(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["tokenizer", "train", "plot"])
    parser.add_argument("out", type=Path)
    parser.add_argument("logs", nargs="*", metavar="NAME=LOG")
    parser.add_argument("--tokenizer", type=Path, default=nano.folder())
    parser.add_argument("--from", dest="begin", type=Path, help="weights to go on from")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--stop-after", type=float, help="seconds; the run is resumed later")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    options = parser.parse_args()
    if options.what == "plot":
        logs = {name: Path(log) for name, _, log in (log.partition("=") for log in options.logs)}
        for name, log in logs.items():
            if not log.is_file():
                parser.error(
                    f"expected NAME=FILE, got {name!r}, whose file {str(log)!r} is not there"
                )
        curves.plot(logs, options.out)
        return
    if options.what == "tokenizer":
        train_tokenizer(corpus.texts(0, TEXTS)).save_pretrained(options.out)
        return
    given = {name: value for name, _, value in (s.partition("=") for s in options.set)}
    known = [field.name for field in dataclasses.fields(Settings)]
    for name in given:
        if name not in known:
            parser.error(f"--set FIELD=VALUE: no field {name!r}; known: {', '.join(known)}")
    settings = dataclasses.replace(
        Settings(), **{name: yaml.safe_load(value) for name, value in given.items()}
    )
    done = Pretraining(
        settings,
        loaded(options.tokenizer),
        options.out,
        begin=options.begin,
        resume=options.resume,
        stop_after=options.stop_after,
    ).run()
    print(f"weights: {done}" if done else "stopped; go on with --resume")


if __name__ == "__main__":
    main()
