"""sinkhorn_center: the assignments of Sinkhorn and Knopp from a vector, without the matrix that they are of."""

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import use
from vitkiln.kernels.prototypes import reference, sinkhorn_center, softmax


@pytest.fixture
def few_at_once(monkeypatch):
    monkeypatch.setattr(softmax, "LOGITS_AT_ONCE", 1)
    monkeypatch.setattr(softmax, "PROTOTYPES_AT_ONCE", 10)


def published(logits: Tensor, iterations: int) -> Tensor:
    """Assignments [N, K] as DINOv2 computes them, in probabilities."""
    q = logits.exp().T
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(1, keepdim=True) * q.shape[0]
        q /= q.sum(0, keepdim=True) * q.shape[1]
    return (q * q.shape[1]).T


@pytest.mark.parametrize("implementation", ["reference", "torch"])
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.usefixtures("few_at_once")
def test_the_center_gives_the_assignments_of_sinkhorn_and_knopp(logits, iterations, implementation, close):
    features, weight = torch.randn(6, 7, dtype=torch.float64), torch.randn(31, 7, dtype=torch.float64)
    products = features @ weight.T
    with use(implementation):
        arguments = (products, None) if logits else (features, weight)
        center = sinkhorn_center(*arguments, temperature=0.5, iterations=iterations)
    close(((products - center) / 0.5).softmax(1), published(products / 0.5, iterations))


def test_every_prototype_gets_its_share_after_many_iterations(close):
    features, weight = torch.randn(40, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    center = sinkhorn_center(features, weight, 1.0, iterations=200)
    shares = ((features @ weight.T - center) / 1.0).softmax(1).sum(0)
    assert torch.allclose(shares, torch.full((5,), 8.0, dtype=torch.float64), rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.04, 0.01])
def test_sinkhorn_does_not_overflow(temperature):
    features = 1e4 * torch.randn(6, 9)
    center = sinkhorn_center(features, None, temperature)
    assert center.isfinite().all()
    expected = reference.sinkhorn_center(features.double(), None, temperature)
    assert torch.allclose(center.double(), expected, rtol=1e-5, atol=1e-1)


def test_sinkhorn_has_no_gradient_and_no_narrow_type():
    features, weight = torch.randn(4, 7, dtype=torch.bfloat16), torch.randn(9, 7, requires_grad=True)
    center = sinkhorn_center(features, weight, torch.tensor(0.2))
    assert center.dtype == torch.float32
    assert not center.requires_grad


def test_sinkhorn_compiles_without_a_break(close):
    features, weight = torch.randn(4, 7), torch.randn(9, 7)
    compiled = torch.compile(sinkhorn_center, backend="aot_eager", fullgraph=True)
    close(compiled(features, weight, 0.2), sinkhorn_center(features, weight, 0.2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": torch.zeros(2, 3, 7)}, r"teacher: .*\[N, d\]"),
        ({"teacher": torch.zeros(0, 7)}, r"teacher: .*a row and a column"),
        ({"weight": torch.zeros(9, 6)}, r"weight: .*\[K, 7\]"),
        ({"temperature": -1.0}, "temperature: -1.0"),
        ({"iterations": 0}, "iterations: 0; must be 1 or more"),
    ],
)
def test_bad_arguments_of_sinkhorn_are_named(changes, message):
    arguments = {"teacher": torch.zeros(4, 7), "weight": torch.zeros(9, 7), "temperature": 0.1}
    with pytest.raises(ValueError, match=message):
        sinkhorn_center(**{**arguments, **changes})
