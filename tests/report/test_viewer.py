"""The viewer in a real browser: what it shows, that nothing untrusted runs, keyboard, phone."""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
import struct
import zlib

import pytest

from m2gym.core.errors import InputError
from m2gym.core.trajectory import Completion, Step, Trajectory, Usage
from m2gym.core.verdict import Score, Verdict
from m2gym.report.summary import summarise
from m2gym.report.viewer import ViewedRun, renderer, static_page
from m2gym.report.viewer.data import Left
from m2gym.report.viewer.page import policy
from m2gym.report.viewer.renderers import render
from tests.conftest import require

EVIL = (
    "</script><script>window.hit=1</script><img src=x onerror='window.hit=2'>"
    '<svg onload="window.hit=3"></svg>"><iframe srcdoc="<script>parent.hit=4</script>">'
    "{{constructor.constructor('window.hit=5')()}} javascript:window.hit=6 <!-- \u2028 \ud800"
)


def png() -> bytes:
    """One red pixel."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data)
        )  # fmt: skip

    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0\xff\0\0"))
        + chunk(b"IEND", b"")
    )


def talk(turns, text="hello", forks=()):
    """A conversation; a completion in ``forks`` extends the first one instead of its forerunner."""
    return tuple(
        Completion(
            prompt_ids=(1, 2, 3),
            response_ids=(10 + n, 11),
            logprobs=(-0.01, -3.0),
            weight_versions=(4, 4),
            parent=None if n == 0 else 0 if n in forks else n - 1,
            messages=({"role": "user" if n == 0 else "tool", "content": f"{text} {n}"},),
            message={
                "role": "assistant",
                "content": f"said {n}",
                "reasoning_content": f"thought {text}",
                "tool_calls": [
                    {"id": f"c{n}", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}
                ],
            },
            usage=Usage(prompt_tokens=5, completion_tokens=2, cost_usd=0.01),
        )
        for n in range(turns)
    )


def episode(task="t0", reward=1.0, **more):
    status = "infra_error" if reward is None else "ok"
    verdict = Verdict(
        reward=reward,
        status=status,
        scores={} if reward is None else {"tests-pass": Score(value=reward, evidence={"why": "x"})},
    )
    fields = {
        "id": f"id-{task}-{more.get('attempt', 0)}",
        "env": "e",
        "task": task,
        "task_hash": "h",
        "agent": "a",
        "seconds": {"start": 1.0, "agent": 8.0, "grade": 2.0},
        "steps": (Step(action="ls", observation="README", seconds=1.0, info={"exit_code": 1}),),
        "verdict": verdict,
        "usage": Usage(prompt_tokens=50, completion_tokens=20, cost_usd=0.1),
    }
    return Trajectory(**{**fields, **more})


def viewed(name, *episodes, left=None, **more):
    return ViewedRun(
        name,
        {"config": {"tasks": [e.task for e in episodes]}},
        summarise(episodes),
        episodes,
        (lambda _: left),
        **more,
    )


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    require("chromium", chromium is not None, "no chromium: apt-get install chromium")
    found = importlib.util.find_spec("playwright") is not None
    require("chromium", found, "no playwright: pip install 'm2gym[dev]'")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        instance = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield instance
        instance.close()


@pytest.fixture
def show(browser, tmp_path):
    contexts = []

    def make(*runs, place="#/", width=1200, scheme="light", allow_errors=False):
        file = tmp_path / "page.html"
        file.write_text("".join(static_page(runs)), "utf-8", "replace")
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("request", lambda r: r.url.startswith("http") and page.errors.append(r.url))
        page.goto(file.as_uri() + place)
        page.wait_for_selector("body[data-ready]")
        return page

    yield make
    for context in contexts:
        context.close()


def go(page, place):
    page.evaluate("place => { location.hash = place; }", place)
    page.wait_for_function("p => document.body.dataset.ready === p", arg=place)


def test_the_table_filters_sorts_and_keeps_it_in_the_link(show):
    episodes = [episode(f"t{n}", n / 4, usage=Usage(prompt_tokens=n)) for n in range(5)]
    page = show(viewed("r", *episodes, episode("t9", None, error="WorkspaceLostError: gone")))
    assert page.locator("tr.open").count() == 6
    page.fill("#q", "gone")
    assert page.locator("tr.open").all_inner_texts()[0].startswith("t9")
    assert page.url.endswith("q=gone")
    page.fill("#q", "")
    page.click("button.chip:has-text('partial')")
    assert page.locator("tr.open").count() == 3
    assert page.get_attribute("button.chip:has-text('partial')", "aria-pressed") == "true"
    page.click("th[data-key=reward] button")
    page.click("th[data-key=reward] button")
    assert [text[:2] for text in page.locator("tr.open").all_inner_texts()] == ["t3", "t2", "t1"]
    assert page.get_attribute("th[data-key=reward]", "aria-sort") == "descending"
    again = page.context.new_page()
    again.goto(page.url)
    again.wait_for_selector("tr.open")
    assert [text[:2] for text in again.locator("tr.open").all_inner_texts()] == ["t3", "t2", "t1"]
    assert page.errors == []


def test_a_trajectory_whole(show):
    left = Left(
        {"a.txt": b"new\n", "p.png": png(), "t.csv": b"x,y\n1,2\n", "z.bin": b"\0\1"},
        ["gone.txt"],
        "--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-old\n+new\n",
    )
    one = episode(completions=talk(4, forks=(3,)), waited={"model": 1.5})
    page = show(viewed("r", one, left=left, decode=lambda id: f"<{id}>"), place="#/t/0/id-t0-0")
    body = page.inner_text("main")
    assert "said 2" in body
    assert "thought" not in body
    page.locator("summary", has_text="Thinking").first.click()
    assert "thought hello" in page.inner_text("main")
    page.select_option("select", "3")
    page.wait_for_selector("#turn-3")
    assert "said 2" not in page.inner_text("main")
    go(page, "#/t/0/id-t0-0/steps")
    page.locator("main", has_text="exit 1").wait_for()
    go(page, "#/t/0/id-t0-0/tokens")
    assert page.locator(".tok .mask").count() == 12
    assert page.locator(".tok .own").count() == 8
    assert page.locator(".tok .own").first.inner_text() == "<10>"
    assert "p 0.0498, logprob -3.0000, weights 4" in page.locator(".own").nth(1).get_attribute(
        "title"
    )
    go(page, "#/t/0/id-t0-0/tree")
    assert page.locator("svg a").count() == 3
    go(page, "#/t/0/id-t0-0/diff")
    assert page.inner_text(".diff .add") == "+new"
    go(page, "#/t/0/id-t0-0/files")
    assert page.evaluate("document.querySelector('img.shown').naturalWidth") == 1
    assert page.locator("table td").all_inner_texts() == ["1", "2"]
    assert "gone.txt" in page.inner_text("main")
    go(page, "#/t/0/id-t0-0/verdict")
    assert "tests-pass" in page.inner_text("main")
    go(page, "#/t/0/id-t0-0/raw")
    assert json.loads(page.inner_text("main pre"))["task"] == "t0"
    assert page.errors == []


def test_two_runs_side_by_side(show):
    a = viewed("first", episode("t0", 0.0, completions=talk(2, "aaa")), episode("t1", 1.0))
    b = viewed("second", episode("t0", 1.0, completions=talk(2, "bbb")), episode("t1", 1.0))
    page = show(a, b, place="#/c/0/1")
    assert "1 better, 1 equal, 0 worse" in page.inner_text("main")
    page.click("td.task a")
    page.wait_for_selector(".two")
    columns = page.locator(".two > section")
    assert "aaa 1" in columns.nth(0).inner_text()
    assert "bbb 1" in columns.nth(1).inner_text()
    assert page.errors == []


@pytest.mark.parametrize("tab", ["", "/steps", "/tokens", "/tree", "/diff", "/files", "/verdict",
                                 "/raw"])  # fmt: skip
def test_nothing_untrusted_runs(show, tab):
    evil = EVIL.encode("utf-8", "surrogatepass")
    left = Left(
        {f"{EVIL.replace('/', '_')[:60]}.txt": evil, "x.svg": b"<svg onload='parent.hit=7'/>",
         "y.csv": evil, "z.json": b'{"__proto__": {"x": 1}}'},
        [EVIL],
        f"--- {EVIL}\n+{EVIL}\n",
    )  # fmt: skip
    clean = EVIL.replace("\ud800", "")
    talked = talk(2, clean)
    talked = (
        talked[0].model_copy(
            update={
                "messages": (
                    {"role": clean, "content": [
                        {"type": "image_url", "image_url": {"url": "javascript:window.hit=8"}},
                        {"type": "image_url", "image_url": {"url": "data:text/html,<script>"}},
                        {"type": "text", "text": clean},
                    ]},
                ),
                "finish_reason": clean,
            }
        ),
        *talked[1:],
    )  # fmt: skip
    one = episode(
        task=clean,
        id="evil",
        agent=clean,
        completions=talked,
        steps=(Step(action={"name": clean, "arguments": {clean: clean}}, observation=clean),),
        error=clean,
        faults=({"cause": clean},),
        verdict=Verdict(reward=0.0, scores={clean: Score(value=0, evidence={clean: clean})}),
    )
    run = viewed(clean, one, left=left, decode=lambda _: clean)
    page = show(run, run, place="#/")
    go(page, f"#/t/0/evil{tab}")
    go(page, "#/c/0/1")
    go(page, f"#/c/0/1/{'x' if tab else '%3Cimg%20src=x%20onerror=%22window.hit=9%22%3E'}")
    page.wait_for_timeout(150)
    assert page.evaluate("window.hit") is None
    assert page.locator("iframe").count() == 0
    assert page.locator("main script, main [onerror], main [onload]").count() == 0
    assert page.errors == []


def test_the_policy_stops_what_would_slip_in(show):
    page = show(viewed("r", episode()))
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.hit=1';"
        "document.body.append(s);"
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hit=2\">'); }"
    )
    page.wait_for_timeout(150)
    assert page.evaluate("window.hit") is None
    assert "unsafe" not in policy(False)
    assert "connect-src" not in policy(False)


def test_by_keyboard(show):
    page = show(viewed("r", *(episode(f"t{n}", completions=talk(2)) for n in range(4))))
    page.keyboard.press("/")
    page.keyboard.type("t")
    page.keyboard.press("Escape")
    for key in ("j", "j", "k", "j"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('t1')")
    page.keyboard.press("]")
    page.wait_for_selector("h1:has-text('t2')")
    page.keyboard.press("7")
    page.wait_for_selector("nav.tabs a[aria-current]:has-text('Verdict')")
    page.keyboard.press("u")
    page.wait_for_selector("tr.open")
    assert page.url.endswith("q=t")
    page.keyboard.press("?")
    assert page.locator("dialog[open]").count() == 1
    page.keyboard.press("Escape")
    before = page.evaluate("document.documentElement.dataset.theme")
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") != before
    assert page.errors == []


def test_landmarks_and_names(show):
    page = show(viewed("r", episode(completions=talk(2))), place="#/t/0/id-t0-0")
    for selector in ("header", "main", "nav[aria-label]", "h1", "html[lang]", "[role=status]"):
        assert page.locator(selector).count() >= 1, selector
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, a, select, input, section, svg[role=img]')]"
        ".filter(e => !(e.getAttribute('aria-label') || e.innerText || e.textContent ||"
        " e.closest('label'))).length"
    )
    assert unnamed == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"


def test_at_a_phones_width_and_in_the_dark(show):
    long = "x" * 400
    run = viewed("r" * 80, episode(long, completions=talk(3, long)), episode("t1", 0.0))
    page = show(run, run, width=360, scheme="dark")
    for place in ("#/", f"#/t/0/id-{long}-0", "#/c/0/1", f"#/c/0/1/{long}"):
        go(page, place)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, place
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 22, 26)"


def test_two_thousand_turns_and_a_link_into_them(show):
    page = show(viewed("r", episode(completions=talk(2000))), place="#/t/0/id-t0-0?at=1500")
    assert "said 1500" in page.inner_text("#turn-1500")
    assert page.evaluate(
        "() => { const r = document.querySelector('#turn-1500').getBoundingClientRect();"
        "return r.top < innerHeight && r.bottom > 0; }"
    )
    go(page, "#/t/0/id-t0-0")
    assert page.locator(".msg").count() < 500
    go(page, "#/t/0/id-t0-0/tree")
    assert page.locator("svg a").count() == 1


def test_renderers_make_blocks_and_no_html():
    @renderer(".molecule")
    def molecule(path, data):
        return {"kind": "table", "rows": [["atom"], [data.decode()]]}

    @renderer(".broken")
    def broken(path, data):
        return {"kind": "html", "html": "<b>"}

    assert render("m.molecule", b"C")["rows"] == [["atom"], ["C"]]
    with pytest.raises(InputError, match="kinds and fields are"):
        render("x.broken", b"")
    with pytest.raises(InputError, match="starts with a dot"):
        renderer("nodot")
    assert render("a.json", b"{bad")["text"] == "{bad"
    assert render("a.txt", b"\xff\xfe") == {"kind": "binary", "bytes": 2}
    assert render("a.png", png())["data"] == base64.b64encode(png()).decode()
