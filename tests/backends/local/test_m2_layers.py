import copy

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from m2gym.backends.local.backend import prepared  # noqa: E402
from m2gym.backends.local.hooked import HookedModel  # noqa: E402
from m2gym.backends.local.m2_layers import (  # noqa: E402
    LayersMismatchError,
    applies,
    expert_sum,
    use_layers,
)
from m2gym.backends.train_config import TrainConfig  # noqa: E402
from m2gym.models.nano.shape import DENSE, SHAPE, build  # noqa: E402
from tests.backends.local.models import tiny  # noqa: E402


def biased(shape=SHAPE):
    torch.manual_seed(0)
    model = build(shape).eval()
    for layer in model.model.layers:
        layer.mlp.e_score_correction_bias.normal_(0, 0.1)
        for norm in (layer.input_layernorm, layer.self_attn.q_norm, layer.self_attn.k_norm):
            torch.nn.init.normal_(norm.weight, 1.0, 0.1)
    return model


def causal(layer, q, k, v, scale):
    k, v = (x.repeat_interleave(q.shape[0] // k.shape[0], 0) for x in (k, v))
    return torch.nn.functional.scaled_dot_product_attention(
        q[None], k[None], v[None], is_causal=True, scale=scale
    )[0]


@pytest.mark.parametrize("shape", [SHAPE, DENSE], ids=["moe", "dense"])
def test_states_and_gradients_are_transformers_own(shape):
    model = biased(shape)
    other = copy.deepcopy(model)
    plain, ours = HookedModel(model), HookedModel(other)
    assert use_layers(ours)
    ids, positions = torch.randint(0, 1024, (40,)), torch.arange(40) + 3
    found = [hooked.hidden(ids, positions, causal) for hooked in (plain, ours)]
    assert torch.allclose(*found, atol=2e-5)
    for state in found:
        state.square().sum().backward()
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        if a.grad is not None:
            assert torch.allclose(a.grad, b.grad, atol=1e-3 * max(1, float(a.grad.abs().max()))), (
                name
            )


def test_the_sum_of_experts_is_that_of_each_token_alone():
    torch.manual_seed(0)
    x, gate_up, down = torch.randn(9, 8), torch.randn(4, 24, 8), torch.randn(4, 8, 12)
    index = torch.stack([torch.randperm(4)[:2] for _ in range(9)])
    weight = torch.rand(9, 2)
    found = expert_sum(x, index, weight, gate_up, down)
    for token in range(9):
        own = torch.zeros(8)
        for expert, share in zip(index[token].tolist(), weight[token], strict=True):
            gate, up = (gate_up[expert] @ x[token]).chunk(2)
            own += share * (down[expert] @ (torch.nn.functional.silu(gate) * up))
        assert torch.allclose(found[token], own, atol=1e-5)


def test_an_expert_that_nobody_chose_has_no_gradient():
    x, gate_up = torch.randn(3, 8), torch.randn(4, 24, 8, requires_grad=True)
    index = torch.tensor([[0], [2], [2]])
    expert_sum(x, index, torch.ones(3, 1), gate_up, torch.randn(4, 8, 12)).sum().backward()
    assert [bool(g.any()) for g in gate_up.grad] == [True, False, True, False]


def test_where_they_do_not_apply():
    assert applies(build(SHAPE))
    assert not applies(build(SHAPE).double())
    assert not applies(tiny("llama"))
    lora = TrainConfig(
        env="tool-worlds", model="m2-nano", backend={"id": "local", "lora": {"targets": ["q_proj"]}}
    )
    assert prepared(build(SHAPE), lora).layers_of_m2 is None
    assert prepared(build(SHAPE), TrainConfig(env="tool-worlds", model="m2-nano")).layers_of_m2


def test_a_model_that_differs_is_refused():
    hooked = HookedModel(biased())
    layer = hooked.base.model.layers[0]
    plain = layer.mlp.forward
    layer.mlp.forward = lambda x: 1.1 * plain(x)
    with pytest.raises(LayersMismatchError, match="differ"):
        use_layers(hooked)


def test_a_small_model_has_one_core_a_call():
    torch.set_num_threads(2)
    hooked = HookedModel(biased())
    with hooked.cores():
        assert torch.get_num_threads() == 2, "layers of another form: torch's own threads"
    assert use_layers(hooked)
    with hooked.cores():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
