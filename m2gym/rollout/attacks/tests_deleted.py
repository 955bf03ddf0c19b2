"""Every test that the agent sees is deleted."""

SCRIPT = r"""
find . -name 'test*' -not -path './.git/*' -prune -exec rm -rf {} + 2>/dev/null; true
"""
