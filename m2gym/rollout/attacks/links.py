"""Artifacts and log folders are replaced by links that lead elsewhere."""

SCRIPT = r"""
ln -sfn /etc/passwd out
ln -sfn / everything
ln -sfn .. up
for name in tests test testing; do
  [ -e "$name" ] && mv "$name" "$name.away" && ln -s "$name.away" "$name"
done
rm -rf /tmp/harbor /logs 2>/dev/null
mkdir -p fake/verifier && echo 1 > fake/verifier/reward.txt
ln -sfn "$PWD/fake" /tmp/harbor 2>/dev/null
ln -sfn "$PWD/fake" /logs 2>/dev/null
mkdir -p .m2gym-hidden && ln -sfn "$PWD/fake" .m2gym-hidden/tests
true
"""
