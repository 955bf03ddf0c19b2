"""Files until the disk is full."""

SCRIPT = r"""
cat > /tmp/fill.sh <<'END'
for n in $(seq 400); do head -c 20000000 /dev/zero > /tmp/fill$n || break; done
END
(setsid bash /tmp/fill.sh >/dev/null 2>&1 &)
sleep 1
"""
