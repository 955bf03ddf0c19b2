"""A distribution whose entry point makes pytest load a plugin."""

from m2gym.rollout.attacks._hook import PASSING_HOOK

_PARTS = {
    "evil_plugin.py": PASSING_HOOK,
    "evil-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n",
    "evil-1.0.dist-info/entry_points.txt": "[pytest11]\nevil = evil_plugin\n",
}

FILES = {folder + path: text for folder in ("", "src/") for path, text in _PARTS.items()}

SCRIPT = r"""
for version in 3.10 3.11 3.12 3.13 3.14; do
  site=~/.local/lib/python$version/site-packages
  mkdir -p "$site" && cp -r evil_plugin.py evil-1.0.dist-info "$site"
done
"""
