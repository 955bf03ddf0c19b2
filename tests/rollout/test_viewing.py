"""Run folders as a page, and served while they grow."""

import json
import re

import pytest
from aiohttp.test_utils import TestClient, TestServer

from m2gym.core.errors import InputError
from m2gym.rollout.run_folder import RunWriter
from m2gym.rollout.viewing import Viewer, write_page


@pytest.fixture
def folder(tmp_path, record, info):
    path = tmp_path / "r"
    with RunWriter(path, info()) as writer:
        writer.append(record("a"))
        writer.append(record("b", status="infra_error", reward=None))
    return path


async def test_a_growing_run_is_followed(folder, record, info):
    async with TestClient(TestServer(Viewer([folder]).app())) as client:
        page = await (await client.get("/")).text()
        assert "connect-src &#x27;self&#x27;" in page
        found = await (await client.get("/api/index")).json()
        assert [one["task"] for one in found["rows"]] == ["a", "b"]
        with RunWriter(folder, info(), resume=True) as writer:
            writer.append(record("a", 1, reward=0.0))
            ask = {"since": "2", "epoch": found["epoch"]}
            more = await (await client.get("/api/index", params=ask)).json()
            assert [(o["task"], o["attempt"]) for o in more["rows"]] == [("a", 1)]
            assert more["epoch"] == found["epoch"]
            assert more["runs"][0]["summary"]["score"] == 0.5
            # the lost one is tried again: its row is replaced, so the page begins anew
            writer.append(record("b", id="b-again"))
        anew = await (await client.get("/api/index", params=ask)).json()
        assert anew["epoch"] != found["epoch"]
        assert [o["id"] for o in anew["rows"]] == ["a-0", "a-1", "b-again"]
        one = await (await client.get("/api/episode/0/b-again")).json()
        assert one["trajectory"]["task"] == "b"
        for wrong in ("/api/episode/0/b-0", "/api/episode/7/a-0", "/api/episode/x/a-0", "/etc"):
            assert (await client.get(wrong)).status == 404


async def test_only_this_machines_names_are_served(folder):
    async with TestClient(TestServer(Viewer([folder]).app())) as client:
        answer = await client.get("/api/index", headers={"Host": "evil.example:80"})
        assert answer.status == 403
        assert (await client.get("/", headers={"Host": "localhost:1"})).status == 200


def test_a_page_is_one_file(folder, tmp_path):
    target = tmp_path / "x.html"
    episodes, size = write_page([folder, folder], target)
    text = target.read_text("utf-8")
    assert (episodes, size) == (4, target.stat().st_size)
    assert not re.search(r"""(src|href)=["']?(http|//)""", text)
    assert text.count("<script") == text.count("</script>")
    with pytest.raises(InputError, match="cannot write"):
        write_page([folder], tmp_path / "none" / "x.html")
    with pytest.raises(InputError, match="is not a run folder"):
        write_page([tmp_path / "none"], target)


def test_the_command(folder, tmp_path, capsys):
    from typer.testing import CliRunner

    from m2gym.cli.app import app

    done = CliRunner().invoke(app, ["view", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["path"] == f"{folder}.html"
    assert told["trajectories"] == 2
