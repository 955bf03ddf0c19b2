"""Memory until there is no more."""

SCRIPT = r"""
(setsid python3 -c 'x = []
while True: x.append(bytearray(1 << 24))' >/dev/null 2>&1 &)
sleep 1
"""
