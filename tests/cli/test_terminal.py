"""A person at a real terminal (a pseudo-terminal of the kernel's)."""

import os
import pty
import subprocess
import sys
import time

import pytest

from tests.rollout.tiny import install


class Terminal:
    def __init__(self, folder, *arguments, **variables):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "m2gym", *arguments],
            cwd=folder,
            env={**os.environ, **variables, "TERM": "xterm", "COLUMNS": "120"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            # so that Ctrl-C typed at the terminal reaches the process
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )
        os.close(slave)
        self.seen = ""

    def until(self, text):
        limit = time.monotonic() + 60
        while text not in self.seen:
            assert time.monotonic() < limit, self.seen
            try:
                self.seen += os.read(self.master, 65536).decode("utf-8", "replace")
            except OSError:
                break
        assert text in self.seen, self.seen

    def type(self, text):
        os.write(self.master, text.encode())

    def end(self):
        while True:
            try:
                chunk = os.read(self.master, 65536)
            except OSError:
                break
            if not chunk:
                break
            self.seen += chunk.decode("utf-8", "replace")
        code = self.process.wait(timeout=60)
        os.close(self.master)
        return code


@pytest.fixture
def terminal(tmp_path, bwrap):
    variables = install(tmp_path)
    return lambda *arguments, **more: Terminal(tmp_path, *arguments, **{**variables, **more})


def test_a_person_solves_a_task(terminal):
    screen = terminal("eval", "tiny", "-a", "human", "-n", "1")
    screen.until("»")
    screen.type("echo 0 > answer.txt\r")
    screen.until("answer.txt")
    time.sleep(0.5)
    screen.type("\x04")
    assert screen.end() == 0
    assert "1.000" in screen.seen


def test_ctrl_c_at_the_prompt_leaves_quietly(terminal):
    screen = terminal("eval", "tiny", "-a", "human", "-n", "1", "--out", "r")
    screen.until("»")
    screen.type("\x03")
    assert screen.end() == 130
    assert "m2gym eval --resume --out r" in screen.seen
    assert "Traceback" not in screen.seen
    assert "Fatal" not in screen.seen


def test_a_person_past_the_deadline_is_graded(terminal):
    screen = terminal("eval", "tiny", "-a", "human", "-n", "1", TINY_SECONDS="2")
    screen.until("»")
    assert screen.end() == 0
    assert "0.000" in screen.seen
    assert "Fatal" not in screen.seen


def test_the_progress_bar_shows_the_mean(terminal):
    screen = terminal("eval", "tiny", "-a", "gold")
    assert screen.end() == 0
    assert "4/4" in screen.seen
    assert "mean 1.00" in screen.seen
