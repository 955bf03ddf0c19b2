import dataclasses
import json
from random import Random

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from m2gym.backends.local.pretrain import balance, corpus, curves  # noqa: E402
from m2gym.backends.local.pretrain.measure import split_rows, success  # noqa: E402
from m2gym.backends.local.pretrain.mtp import Ahead, TwoTokens, drafts  # noqa: E402
from m2gym.backends.local.pretrain.network import Network  # noqa: E402
from m2gym.backends.local.pretrain.run import Pretraining, Settings, batches  # noqa: E402
from m2gym.core.errors import InputError  # noqa: E402
from m2gym.models import nano  # noqa: E402
from m2gym.models.nano.shape import DENSE, SHAPE, build  # noqa: E402
from m2gym.tasksets.tool_worlds import World  # noqa: E402

SMALL = Settings(
    steps=4, rows=4, length=129, device="cpu", compiled=False, workers=0, probes=4,
    measure_every=4, save_every=2, warmup=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(nano.folder()), local_files_only=True)


@pytest.fixture(scope="module")
def encoder(tokenizer):
    return corpus.Encoder(tokenizer)


def test_the_encoder_gives_the_tokenizers_own_ids(encoder):
    for text in ("What is 59 times 17?", "<<a|b;c>>\n\n x", "é ü\t\n0123", "user\nabc def"):
        assert encoder(text) == encoder.tokenizer.encode(text)


def test_a_document_is_the_formats_rendering(encoder):
    world = World.draw(Random(0), tools=2)
    made = corpus.world_document(Random(1), encoder, 400, world, plain=True)
    text = encoder.tokenizer.decode(made.ids)
    rendered = encoder.format.render([{"role": "user", "content": "x"}])
    assert made.ids[:3] == rendered[:3]
    first = made.spans[0]
    call = encoder.tokenizer.decode(made.ids[first.first : first.end - 1])
    assert world.run(call) is not None
    assert text.count("<think>") == text.count("</think>")


def test_only_the_assistants_words_are_trained(encoder):
    world = World.draw(Random(0))
    made = corpus.world_document(Random(1), encoder, 200, world, plain=True)
    said = encoder.tokenizer.decode([i for i, t in zip(made.ids, made.trained, strict=True) if t])
    assert "user" not in said
    assert "response" not in said
    assert said.count("[e~[") == 2 * len(made.spans)


def test_rows_follow_from_seed_and_number(encoder):
    one = corpus.rows(encoder, 0, 3, 4, 129)
    assert (one == corpus.rows(encoder, 0, 3, 4, 129)).all()
    assert (one != corpus.rows(encoder, 0, 4, 4, 129)).any()
    assert one.shape == (4, 129)
    assert ((one & corpus.TRAINED) != 0).any()
    assert ((one & (corpus.TRAINED - 1)) < 1024).all()


@pytest.mark.parametrize("reuse", [1, 2])
def test_batches_are_the_same_after_a_resume(tokenizer, reuse):
    settings = dataclasses.replace(SMALL, steps=140, rows=1, length=33, reuse=reuse)
    whole = list(batches(settings, tokenizer, 0))
    assert len(whole) == 140
    rest = list(batches(settings, tokenizer, 70))
    assert all((a == b).all() for a, b in zip(whole[70:], rest, strict=True))


@pytest.mark.parametrize("shape", [SHAPE, DENSE], ids=["moe", "dense"])
def test_the_network_has_transformers_logits(shape):
    torch.manual_seed(0)
    model = build(shape).eval()
    for layer in model.model.layers:
        layer.mlp.e_score_correction_bias.normal_(0, 0.05)
    ids = torch.randint(0, 1024, (2, 33))
    with torch.no_grad():
        own = model(ids[:, :-1]).logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        nll, load = Network(model)(ids[:, :-1], ids[:, 1:])
    assert torch.allclose(own, -nll, atol=1e-4)
    assert load.shape == (shape["num_hidden_layers"], shape["num_local_experts"])
    assert (load.sum(1) == 64 * shape["num_experts_per_tok"]).all()


def test_the_module_ahead_sees_no_token_that_it_is_to_say():
    torch.manual_seed(0)
    both = TwoTokens(Network(build(SHAPE)), Ahead()).eval()
    ids = torch.randint(0, 1024, (1, 34))
    other = ids.clone()
    other[:, 20] += 1 - 2 * (other[:, 20] % 2)
    with torch.no_grad():
        one, two = (both(x[:, :-1], x[:, 1:])[2][0] for x in (ids, other))
    assert one.shape == (32,)
    assert (one[:18] == two[:18]).all()  # the surprise of tokens 2 to 19
    assert (one[18:] != two[18:]).all()


def test_a_module_that_says_what_the_model_says_is_accepted():
    torch.manual_seed(0)
    both = TwoTokens(Network(build(SHAPE)), Ahead()).eval()
    ids = torch.randint(0, 1024, (2, 33))
    state, _ = both.network.hidden(ids[:, :-1])
    both.drafted = lambda *_: state[:, 1:]
    trained = torch.ones(2, 32, dtype=torch.bool)
    target = both.network.logits(state).argmax(-1)
    target[0, 1:9] += 1
    found = drafts(both, ids[:, :-1], target % 1024, trained)
    assert found == {"next_right": 0.871, "draft_right": 0.871, "accepted": 1.0}


def test_a_model_without_the_module_is_named(tmp_path):
    with pytest.raises(InputError, match=r"mtp\.safetensors"):
        Ahead.load(tmp_path)


def test_balance_raises_the_bias_of_idle_experts():
    model = build(SHAPE)
    load = torch.ones(6, 16)
    load[:, 3] = 0.0
    balance.balance(model, load, 0.01)
    bias = model.model.layers[0].mlp.e_score_correction_bias
    assert bias.argmax() == 3
    assert abs(float(bias.mean())) < 1e-6
    assert balance.use(load)["idle"] == 6


def test_success_reads_the_calls(encoder):
    rows, spans = corpus.probe_rows(encoder, 0, 4, 513, "unseen")
    nll = torch.zeros(4, 512)
    first = spans[0][0]
    nll[0, first.first - 1] = 2.0
    found = success(nll, spans)
    assert found["nats_1"][0] == pytest.approx(1.0)
    assert found["success_1"][1] == 1.0
    ids, target, trained = split_rows(rows, "cpu")
    assert (ids[:, 1:] == target[:, :-1]).all()
    assert trained[0, first.first - 1 : first.end - 1].all()


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_run_resumes_to_the_same_weights(tokenizer, tmp_path):
    whole = Pretraining(SMALL, tokenizer, tmp_path / "a").run()
    assert Pretraining(SMALL, tokenizer, tmp_path / "b", stop_after=0.0).run() is None
    for _ in range(6):
        again = Pretraining(SMALL, tokenizer, tmp_path / "b", resume=True, stop_after=0.0).run()
        if again is not None:
            break
    a, b = (torch_weights(path) for path in (whole, again))
    assert all((a[name] == b[name]).all() for name in a)
    log = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["combination"]["success_1"]
    assert 0 <= log[-1]["unseen"]["draft_right"] <= 1
    a, b = (Ahead.load(path).state_dict() for path in (whole, again))
    assert all((a[name] == b[name]).all() for name in a)
    with pytest.raises(InputError, match="holds a run"):
        Pretraining(SMALL, tokenizer, tmp_path / "a")


def torch_weights(folder):
    from safetensors.numpy import load_file

    return {n: np.asarray(v) for n, v in load_file(folder / "model.safetensors").items()}


def test_curves_are_drawn_from_logs(tokenizer, tmp_path):
    pytest.importorskip("matplotlib")
    Pretraining(SMALL, tokenizer, tmp_path / "a").run()
    curves.plot({"MoE": tmp_path / "a" / "log.jsonl"}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    rows = curves.read(tmp_path / "a" / "log.jsonl")
    assert rows[-1]["tokens"] == pytest.approx(4 * 4 * 128 / 1e6)


def test_the_shipped_module_says_what_the_shipped_model_says(encoder):
    model, _ = nano.load()
    both = TwoTokens(Network(model), Ahead.load(nano.folder()))
    rows, spans = corpus.probe_rows(encoder, 0, 8, 513, "unseen")
    ids, target, trained = split_rows(rows, "cpu")
    found = drafts(both, ids, target, trained)
    assert found["accepted"] > 0.95
    with torch.no_grad():
        nll, _ = both.network(ids, target)
    by_shots = success(nll, spans)["success_1"]
    assert by_shots[0] < 0.05
    assert by_shots[3] > 0.8
