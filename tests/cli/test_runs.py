"""``m2gym ctl``, ``regrade``, ``view``, exports and estimates, as typed."""

import json
import socket

from tests.cli.test_commands import m2gym, one_line, place  # noqa: F401


def test_a_run_is_limited_looked_at_regraded_shown_and_exported(m2gym, place):  # noqa: F811
    done = m2gym(
        "eval", "tiny", "--agent", "gold", "-k", "2", "--out", "whole", "--limits",
        "agent=50,grade=40", "--at-once", "boxes=2,graders=1", "--retries", "3", "--json",
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert (told["score"], told["complete"]) == (1, True)
    assert told["passes"]["pass^2"]["mean"] == 1
    assert any("tasks leave" in sentence for sentence in told["warnings"])

    status = json.loads(m2gym("ctl", "whole", "--json").stdout)
    assert (status["done"], status["running"]) == (8, False)
    assert status["at_once"]["boxes"] == 2
    assert "not running; 8 of 8 episodes" in m2gym("ctl", "whole").stderr
    assert "no driver is running" in one_line(m2gym("ctl", "whole", "--set", "boxes=3", code=1))

    found = json.loads(m2gym("regrade", "whole", "--times", "2", "--json").stdout)
    assert (found["gradings"], found["changed"], found["flakes"]["rate"]["mean"]) == (16, [], 0)
    assert "flake rate: 0.000" in m2gym("regrade", "whole", "-t", "t1").stdout

    estimate = m2gym("eval", "tiny", "--agent", "gold", "--estimate-from", "whole", "-k", "10")
    assert "40 episodes" in estimate.stdout
    assert "95 %" in estimate.stdout

    m2gym("export", "whole", "-f", "jsonl", "-o", "x.jsonl")
    lines = (place[0] / "x.jsonl").read_text().splitlines()
    assert len(lines) == 8
    assert "sha256" not in json.loads(lines[0])

    m2gym("view", "whole", "-o", "x.html")
    assert (place[0] / "x.html").read_text().startswith("<!doctype html>")

    compared = json.loads(m2gym("compare", "whole", "whole", "--json").stdout)
    assert compared["warnings"][0].startswith("too few tasks differ")
    assert set(compared["of_a"]) == {"cost_usd", "tokens", "seconds"}


def test_what_is_wrong_is_one_line(m2gym):  # noqa: F811
    start = ("eval", "tiny", "--agent", "gold", "--out", "never")
    for more, said in (
        (("--limits", "agents=3"), "no limit 'agents'"),
        (("--limits", "agent"), "--limits is KEY=VALUE"),
        (("--at-once", "boxes=x"), "boxes is a number"),
        (("--executor", "slurm"), "an executor is"),
        (("--estimate-from", "nowhere"), "is not a run folder"),
    ):
        assert said in one_line(m2gym(*start, *more, code=1))
    assert "a folder's name is empty" in m2gym(*start[:-1], "", code=2).stderr
    assert "is no scaffold" in one_line(m2gym("eval", "tiny", "-a", "os:system", code=1))
    near = ("eval", "tiny", "--agent-cmd", "prog {instructions_file}")
    assert "did you mean {instruction_file}?" in one_line(m2gym(*near, code=1))
    assert "is not a run folder" in one_line(m2gym("regrade", "nowhere", code=1))
    assert "has no status.json" in one_line(m2gym("ctl", "nowhere", code=1))


def test_a_port_in_use_is_said_in_words(m2gym):  # noqa: F811
    m2gym("eval", "tiny", "--agent", "gold", "--limit", "1", "--out", "one")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = one_line(m2gym("view", "one", "--serve", "--port", port, code=1))
    assert "that port is in use" in said
    assert "--port" in said
