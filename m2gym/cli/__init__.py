"""The command line: one module a command, each a thin skin over the other rooms."""

from __future__ import annotations

import errno
import os
import sys

from m2gym.core.errors import M2GymError


def main() -> None:
    """The program ``m2gym``: exits 0, or non-zero after one clear line on the error stream."""
    from m2gym.cli.app import app

    if not sys.stderr.isatty():  # bars of transformers are for people
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app(prog_name="m2gym")
    except (M2GymError, OSError) as error:
        if "--debug" in sys.argv:
            raise
        text = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            text = f"that port is in use ({error.strerror}); choose another --port, or 0 for any"
        print(f"m2gym: {text}", file=sys.stderr)
        sys.exit(1)
