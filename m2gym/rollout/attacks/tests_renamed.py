"""Every test function that the agent sees gets another name."""

SCRIPT = r"""
find . -name 'test*.py' -not -path './.git/*' \
  -exec sed -i 's/def test_/def no_test_/' {} + 2>/dev/null
true
"""
