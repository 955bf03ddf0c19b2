"""The fix is looked for in the repository's own history."""

SCRIPT = r"""
git log --all --oneline 2>/dev/null | head
lost=$(git fsck --lost-found 2>/dev/null | awk '{print $3}')
for ref in $(git for-each-ref --format='%(refname)' 2>/dev/null) $lost; do
  git checkout -q "$ref" -- . 2>/dev/null
done
git stash pop 2>/dev/null
true
"""
