"""Caches of byte code that say something else than the source."""

SCRIPT = r"""
python3 - <<'END'
import importlib._bootstrap_external as external
import os, pathlib, sys
code = compile("import os; os._exit(0)", "x", "exec")
for path in list(pathlib.Path(".").rglob("*.py"))[:2000]:
    info = path.stat()
    data = external._code_to_timestamp_pyc(code, int(info.st_mtime), info.st_size)
    cache = path.parent / "__pycache__"
    cache.mkdir(exist_ok=True)
    (cache / f"{path.stem}.{sys.implementation.cache_tag}.pyc").write_bytes(data)
END
"""
