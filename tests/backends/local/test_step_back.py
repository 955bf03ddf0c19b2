import pytest

torch = pytest.importorskip("torch")

from m2gym.backends.local.optimiser import MasterAdamW  # noqa: E402
from m2gym.backends.local.step_back import StepBack  # noqa: E402
from m2gym.backends.train_config import TrainSettings  # noqa: E402


def trained(model, optimiser):
    model(torch.ones(1, 3, dtype=model.weight.dtype)).sum().backward()
    optimiser.collect()
    optimiser.step(0.1)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_it_returns_to_the_best_weights(kind):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2).to(kind)
    optimiser = MasterAdamW(model, TrainSettings())
    guard = StepBack(optimiser)
    assert not guard.back(1.5), "nothing seen"
    guard.see(9.0)
    trained(model, optimiser)
    guard.see(8.0)
    best = model.weight.detach().clone()
    trained(model, optimiser)
    guard.see(9.4)
    assert not guard.back(1.5), "within the margin"
    assert not torch.equal(model.weight, best)
    guard.see(9.6)
    assert guard.back(1.5)
    assert torch.equal(model.weight, best)
    assert not guard.back(1.5)


def test_its_state_comes_back():
    model = torch.nn.Linear(3, 2)
    optimiser = MasterAdamW(model, TrainSettings())
    guard, again = StepBack(optimiser), StepBack(optimiser)
    again.load(guard.state())
    assert not again.back(1.0)
    guard.see(3.0)
    best = model.weight.detach().clone()
    trained(model, optimiser)
    guard.see(5.0)
    again.load(guard.state())
    assert again.back(1.0)
    assert torch.equal(model.weight, best)
    again.forget()
    assert not again.kept
