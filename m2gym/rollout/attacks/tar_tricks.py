"""Names, hard links, pipes, devices and depths that break an archive's reader."""

SCRIPT = r"""
mkdir -p tricks && cd tricks
touch -- '-rf' '--checkpoint-action=exec=sh' $'new\nline' '..\..\up' '$(id)' 2>/dev/null
mkfifo pipe 2>/dev/null
ln /etc/passwd hard 2>/dev/null; ln ../* . 2>/dev/null
mknod device c 1 3 2>/dev/null
python3 - <<'END'
import os, socket
s = socket.socket(socket.AF_UNIX); s.bind("socket")
for n in range(200):
    os.mkdir("d"); os.chdir("d")
END
true
"""
