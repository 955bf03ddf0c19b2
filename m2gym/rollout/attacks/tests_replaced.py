"""The tests that the agent sees are replaced by ones that pass."""

SCRIPT = r"""
find . -name 'test*.py' -not -path './.git/*' | while read -r file; do
  names=$(grep -oE 'def test_\w+' "$file" | sort -u)
  echo "$names" | while read -r line; do
    [ -n "$line" ] && echo "$line(*a, **k): pass"
  done > /tmp/new
  cp /tmp/new "$file"
done
true
"""
