"""The engine against transformers' own forward pass and greedy generation."""

from __future__ import annotations

import asyncio
import copy
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in extra 'train'")

import m2gym.backends.local.engine as engine_module  # noqa: E402
from m2gym.backends.local.attention import PIECE  # noqa: E402
from m2gym.backends.local.engine import LocalEngine  # noqa: E402
from m2gym.backends.local.hooked import HookedModel  # noqa: E402
from m2gym.backends.local.m2_layers import use_layers  # noqa: E402
from m2gym.core.errors import BudgetError, InputError, ModelError  # noqa: E402
from m2gym.core.protocols import Sampling  # noqa: E402
from tests.backends.local import models  # noqa: E402
from tests.backends.local.models import VOCABULARY  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

FIXED = pytest.mark.parametrize("fixed", [False, True], ids=["growing", "fixed"])
"""Decoding in shapes that grow, and in those that a GPU would capture."""

KINDS = ["llama", "qwen3_moe", "minimax_m2", "minimax_m2 in few operations"]


def tiny(kind="llama", **own):
    return models.tiny(kind, **own).to(DEVICE)


def prompt(n, seed=0):
    return np.random.default_rng(seed).integers(3, VOCABULARY, n).tolist()


def own_logprobs(model, ids, at, temperature=1.0):
    """Transformers' logprobs of ids[at:], by its own attention."""
    with torch.no_grad():
        logits = model(torch.tensor([ids], device=DEVICE), use_cache=False).logits[0]
        logits = logits.double() / temperature
    logp = logits.log_softmax(-1)
    return [float(logp[n - 1, ids[n]]) for n in range(at, len(ids))]


def engine_of(model, few=False, **options):
    hooked = HookedModel(copy.deepcopy(model))
    hooked.check()
    if few:
        if DEVICE != "cpu":
            pytest.skip("few operations are for a CPU")
        assert use_layers(hooked)
    return LocalEngine(hooked, **options)


async def until(happens):
    async with asyncio.timeout(60):
        while not happens():  # noqa: ASYNC110
            await asyncio.sleep(0)


def close(a, b, atol=2e-4):
    assert len(a) == len(b)
    np.testing.assert_allclose(a, b, atol=atol, rtol=0)


@FIXED
@pytest.mark.parametrize("kind", KINDS)
async def test_greedy_and_logprobs_are_those_of_transformers(kind, fixed):
    model = tiny(kind.split()[0])
    engine = engine_of(model, kind == KINDS[-1], fixed=fixed)
    prompts = [prompt(n, n) for n in (1, 5, 40, 70)]
    outputs = await asyncio.gather(
        *(
            engine.generate(p, Sampling(temperature=0, max_tokens=12), session_id=str(n))
            for n, p in enumerate(prompts)
        )
    )
    for p, out in zip(prompts, outputs, strict=True):
        ids = torch.tensor([p], device=DEVICE)
        theirs = model.generate(ids, max_new_tokens=12, do_sample=False)
        assert list(out.ids) == theirs[0, len(p) :].tolist()
        close(out.logprobs, own_logprobs(model, [*p, *out.ids], len(p)))
        assert out.stop_reason == "length"
        assert set(out.weight_versions) == {0}


@FIXED
@pytest.mark.parametrize("kind", KINDS)
async def test_groups_share_their_prompts_and_logprobs_stay_exact(kind, fixed):
    model = tiny(kind.split()[0])
    engine = engine_of(model, kind == KINDS[-1], pass_tokens=64, fixed=fixed)
    shots = prompt(50, 1)
    groups = [[*shots, *prompt(30, 2)], [*shots, *prompt(20, 3)], prompt(25, 4)]
    sampling = [Sampling(temperature=1.3, max_tokens=10 + 3 * m, seed=m) for m in range(4)]
    asked = [(p, s, f"{n}.{m}") for n, p in enumerate(groups) for m, s in enumerate(sampling)]
    outputs = await asyncio.gather(
        *(engine.generate(p, s, session_id=name) for p, s, name in asked)
    )
    for (p, s, _), out in zip(asked, outputs, strict=True):
        assert len(out.ids) == s.max_tokens
        close(out.logprobs, own_logprobs(model, [*p, *out.ids], len(p), 1.3))
    generated = sum(len(o.ids) for o in outputs)
    once = 50 + 30 + 20 + 25
    assert engine.store.computed <= once + generated + 12, "each prompt is computed once"
    assert engine.store.reused > 0


@pytest.mark.parametrize("rows", [2, 100], ids=["lanes", "one lane"])
async def test_rows_that_decode_in_lanes_get_the_same_tokens(rows, monkeypatch):
    monkeypatch.setattr(engine_module, "LANE_ROWS", rows)
    torch.set_num_threads(2)
    engine = engine_of(tiny("minimax_m2"), few=True)
    assert engine.lanes.count == 2
    shots = prompt(50, 1)
    prompts = [[*shots, *prompt(3 + n % 3, n)] for n in range(9)]
    turns = sys.getswitchinterval()
    outputs = await asyncio.gather(
        *(
            engine.generate(p, Sampling(max_tokens=5 + n, seed=n), session_id=str(n))
            for n, p in enumerate(prompts)
        )
    )
    assert sys.getswitchinterval() == turns
    for p, out in zip(prompts, outputs, strict=True):
        close(out.logprobs, own_logprobs(tiny("minimax_m2"), [*p, *out.ids], len(p)))
    assert {len(out.ids) for out in outputs} == {*range(5, 14)}


@pytest.mark.parametrize("seeds", [(0, 0, 0), (0, 1, 2)], ids=["shared", "each its own"])
async def test_long_prompts_are_attended_to_in_pieces(seeds):
    model = tiny()
    engine = engine_of(model, fixed=True)
    prompts = [prompt(2 * PIECE + 50, seed) for seed in seeds]
    sampling = [Sampling(max_tokens=8, seed=n) for n in range(len(seeds))]
    outputs = await asyncio.gather(
        *(
            engine.generate(p, s, session_id=str(s.seed))
            for p, s in zip(prompts, sampling, strict=True)
        )
    )
    for p, out in zip(prompts, outputs, strict=True):
        close(out.logprobs, own_logprobs(model, [*p, *out.ids], len(p)))
    assert max(max(sizes[1:]) for sizes in engine.decoder._passes) >= 2 * PIECE


@FIXED
async def test_a_session_goes_on_in_its_row(fixed):
    model = tiny()
    engine = engine_of(model, fixed=fixed)
    ids, computed = prompt(60), 0
    for turn in range(4):
        out = await engine.generate(ids, Sampling(max_tokens=9, seed=turn), session_id="s")
        close(out.logprobs, own_logprobs(model, [*ids, *out.ids], len(ids)))
        new = engine.store.computed - computed
        computed = engine.store.computed
        assert turn == 0 or new <= 1 + 7 + 9, "only what is new since the last turn is computed"
        ids = [*ids, *out.ids, *prompt(7, 100 + turn)]
    fork = [*ids[:70], *prompt(5, 9)]
    out = await engine.generate(fork, Sampling(max_tokens=5, seed=1), session_id="other")
    close(out.logprobs, own_logprobs(model, [*fork, *out.ids], len(fork)))
    assert engine.store.computed - computed <= 5 + 5 + 1, "a fork takes the history of the row"


@FIXED
async def test_admission_is_continuous_and_rows_are_few(fixed):
    model = tiny()
    engine = engine_of(model, rows=3, kv_tokens=400, pass_tokens=32, fixed=fixed)
    prompts = [prompt(10 + 9 * n, n) for n in range(9)]
    outputs = await asyncio.gather(
        *(
            engine.generate(p, Sampling(max_tokens=3 + 4 * (n % 4), seed=n), session_id=str(n))
            for n, p in enumerate(prompts)
        )
    )
    for p, out in zip(prompts, outputs, strict=True):
        close(out.logprobs, own_logprobs(model, [*p, *out.ids], len(p)))
    late = asyncio.create_task(engine.generate(prompts[0], Sampling(max_tokens=40), session_id="a"))
    await asyncio.sleep(0.01)
    early = await engine.generate(prompts[0], Sampling(max_tokens=2, seed=1), session_id="b")
    assert not late.done(), "the second is admitted while the first runs, and ends before it"
    close(early.logprobs, own_logprobs(model, [*prompts[0], *early.ids], len(prompts[0])))
    await late


@FIXED
@pytest.mark.parametrize("few", [False, True], ids=["plain", "few operations"])
async def test_any_mixture_of_prefixes_forks_and_turns_is_exact(fixed, few):
    """Fragments put together at random, so that nodes are split, adopted from rows and given up."""
    rng = np.random.default_rng(5)
    model = tiny("minimax_m2")
    engine = engine_of(model, few, rows=6, kv_tokens=700, pass_tokens=40, fixed=fixed)
    fragments = [prompt(int(n), seed) for seed, n in enumerate(rng.integers(2, 45, 6))]
    known = [[]]
    for _ in range(9):
        asked = []
        for _ in range(int(rng.integers(1, 8))):
            base = known[int(rng.integers(len(known)))]
            cut = len(base) if rng.random() < 0.5 else int(rng.integers(len(base) + 1))
            new = [i for n in rng.integers(0, 6, rng.integers(1, 3)) for i in fragments[n]]
            asked.append([*base[:cut], *new][:400])
        outputs = await asyncio.gather(
            *(
                engine.generate(
                    ids, Sampling(max_tokens=int(rng.integers(1, 12))), session_id=str(n % 5)
                )
                for n, ids in enumerate(asked)
            )
        )
        for ids, out in zip(asked, outputs, strict=True):
            close(out.logprobs, own_logprobs(model, [*ids, *out.ids], len(ids)))
            known.append([*ids, *out.ids])
    assert engine.store.reused > engine.store.computed / 4


def test_one_engine_serves_one_loop_after_another():
    engine = engine_of(tiny())

    async def ask():
        return await engine.generate(prompt(9), Sampling(max_tokens=4, seed=1), session_id="a")

    async def left():
        task = asyncio.create_task(
            engine.generate(prompt(9), Sampling(max_tokens=500), session_id="b")
        )
        await until(lambda: engine._running)
        task.cancel()

    first = asyncio.run(ask())
    asyncio.run(left())
    assert asyncio.run(ask()).ids == first.ids


async def test_a_seed_repeats_alone_and_in_company():
    engine = engine_of(tiny())
    ask = Sampling(max_tokens=15, seed=7)
    alone = await engine.generate(prompt(20), ask, session_id="a")
    both = await asyncio.gather(
        engine.generate(prompt(20), ask, session_id="b"),
        engine.generate(prompt(20), Sampling(max_tokens=15, seed=8), session_id="c"),
    )
    assert both[0].ids == alone.ids != both[1].ids


async def test_stop_ids_stop_strings_and_what_sampling_keeps():
    model = tiny()

    def decode(ids):
        return "".join(chr(33 + i % 90) for i in ids)

    engine = engine_of(model, decode=decode)
    free = await engine.generate(prompt(20), Sampling(max_tokens=30, seed=3), session_id="a")
    text = decode(free.ids)
    said = Sampling(max_tokens=30, seed=3, stop=("@@@@", text[10:12]))
    cut = await engine.generate(prompt(20), said, session_id="b")
    end = text.index(text[10:12]) + 2
    assert cut.ids == free.ids[:end]
    assert cut.stop_reason == "stop"
    engine.stop_ids = frozenset({free.ids[5]})
    cut = await engine.generate(prompt(20), Sampling(max_tokens=30, seed=3), session_id="c")
    assert cut.ids == free.ids[: free.ids.index(free.ids[5]) + 1], "the stop id is part of it"


@FIXED
async def test_top_k_and_top_p_keep_logprobs_of_the_full_distribution(fixed):
    model = tiny()
    engine = engine_of(model, fixed=fixed)
    for ask in (Sampling(top_k=2, max_tokens=25), Sampling(top_p=0.3, max_tokens=25)):
        out = await engine.generate(prompt(20), ask, session_id="a")
        whole = [*prompt(20), *out.ids]
        close(out.logprobs, own_logprobs(model, whole, 20))
        with torch.no_grad():
            p = model(torch.tensor([whole], device=DEVICE)).logits[0].double().softmax(-1)
        for n in range(20, len(whole)):
            above = p[n - 1][p[n - 1] > p[n - 1, whole[n]] + 1e-5]
            assert len(above) < 2 if ask.top_k else float(above.sum()) < 0.3


@FIXED
async def test_a_weight_update_in_the_middle(fixed):
    """Versions change within one answer, and every logprob is that of the weights it names."""
    old, new = tiny(seed=0), tiny(seed=1)
    engine = engine_of(old, fixed=fixed)
    asked = [
        asyncio.create_task(
            engine.generate(prompt(30), Sampling(max_tokens=60, seed=n), session_id=str(n))
        )
        for n in range(3)
    ]
    await until(lambda: engine._running and len(engine._running[0].ids) >= 5)
    await engine.pause()
    held = len(engine._running[0].ids)
    await asyncio.sleep(0.05)
    assert len(engine._running[0].ids) == held, "nothing is generated while paused"
    engine.model.base.load_state_dict(new.state_dict())
    await engine.update_weights(4)
    await engine.resume()
    for out in await asyncio.gather(*asked):
        before = out.weight_versions.count(0)
        assert out.weight_versions == (0,) * before + (4,) * (60 - before)
        assert 5 <= before < 60
        whole = [*prompt(30), *out.ids]
        close(out.logprobs[:before], own_logprobs(old, whole, 30)[:before])
        close(out.logprobs[before:], own_logprobs(new, whole, 30)[before:])


def test_a_pass_of_fixed_shape_is_used_again_for_other_rows_prompts_and_weights():
    """The same pass, with other values in the same places: on a GPU a graph, captured once."""
    model, other = tiny(seed=0), tiny(seed=1)
    engine = engine_of(model, fixed=True)

    async def ask(seed):
        return await asyncio.gather(
            *(
                engine.generate(
                    prompt(50, seed), Sampling(max_tokens=20, seed=n), session_id=f"{n}"
                )
                for n in range(4)
            )
        )

    asyncio.run(ask(0))
    passes = dict(engine.decoder._passes)
    assert len(passes) == 1
    engine.model.base.load_state_dict(other.state_dict())
    asyncio.run(engine.update_weights(1))
    for out in asyncio.run(ask(1)):
        close(out.logprobs, own_logprobs(other, [*prompt(50, 1), *out.ids], 50))
    assert engine.decoder._passes == passes
    assert engine.decoder.captured == (DEVICE == "cuda")


async def test_abort_gives_what_there_is_and_the_others_go_on():
    engine = engine_of(tiny())
    first = asyncio.create_task(
        engine.generate(prompt(20), Sampling(max_tokens=300), session_id="a")
    )
    other = asyncio.create_task(
        engine.generate(prompt(20), Sampling(max_tokens=40), session_id="b")
    )
    await until(lambda: engine._running and len(engine._running[0].ids) >= 5)
    await engine.abort("a")
    out = await first
    assert out.stop_reason == "abort"
    assert 5 <= len(out.ids) < 300
    assert len((await other).ids) == 40
    gone = asyncio.create_task(
        engine.generate(prompt(20), Sampling(max_tokens=300), session_id="c")
    )
    await asyncio.sleep(0.02)
    gone.cancel()
    await asyncio.wait({gone})
    await until(lambda: engine._driver is None or engine._driver.done())
    assert not engine._running, "a caller that goes away frees its row"


@pytest.mark.parametrize(
    ("ids", "ask", "error", "says"),
    [
        ([], Sampling(), InputError, "at least one token"),
        ([VOCABULARY], Sampling(), InputError, "0..96"),
        ([1] * 2048, Sampling(), BudgetError, "2048"),
        ([1], Sampling(temperature=-1), InputError, "temperature"),
        ([1], Sampling(top_p=0), InputError, "top_p"),
        ([1], Sampling(max_tokens=0), InputError, "max_tokens"),
        ([1], Sampling(stop=("x",)), InputError, "decode"),
    ],
)
async def test_bad_requests_say_what_is_wrong(ids, ask, error, says):
    with pytest.raises(error, match=says):
        await engine_of(tiny()).generate(ids, ask, session_id="a")


async def test_new_weights_do_not_wait_for_running_answers():
    """Decoding goes on by itself until somebody asks for the place between two passes."""
    engine = engine_of(tiny())
    running = asyncio.create_task(
        engine.generate(prompt(20), Sampling(max_tokens=1500, seed=1), session_id="a")
    )
    await until(lambda: engine._running and len(engine._running[0].ids) >= 5)
    await engine.update_weights(2)
    assert not running.done()
    await engine.abort("a")
    out = await running
    assert out.weight_versions[:5] == (0,) * 5
    assert len(out.ids) < 1500


async def test_the_context_ends_an_answer():
    out = await engine_of(tiny(max_position_embeddings=40)).generate(
        prompt(30), Sampling(), session_id="a"
    )
    assert (len(out.ids), out.stop_reason) == (10, "length")


async def test_a_failing_pass_is_told_to_all_and_the_engine_goes_on():
    engine = engine_of(tiny())
    broken = engine.model.head.weight.data
    engine.model.head.weight.data = broken[:, :3]
    asked = [engine.generate(prompt(9), Sampling(max_tokens=3), session_id=str(n)) for n in "ab"]
    for told in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(told, ModelError)
        assert told.cause == "broken"
    engine.model.head.weight.data = broken
    assert len((await engine.generate(prompt(9), Sampling(max_tokens=3), session_id="a")).ids) == 3


def test_a_model_that_windows_its_attention_is_refused():
    transformers = pytest.importorskip("transformers")
    config = transformers.MistralConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=8,
    )  # fmt: skip
    with pytest.raises(InputError, match="sliding"):
        HookedModel(transformers.AutoModelForCausalLM.from_config(config))
