"""Word-level distillation: which KL it is, its gradients, and that the teacher never learns."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from pipeline.corpora.batches import Batch
from pipeline.distillation.losses import WordDistillation, forward_kl, mixed_loss, reverse_kl
from pipeline.models.seq2seq import build
from pipeline.size import SizeSpec
from pipeline.training.forward import ReferenceForward
from pipeline.training.objectives import CrossEntropy, HeadLoss


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_forward_is_teacher_against_student_and_reverse_the_other_way(temperature: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 9, dtype=torch.float64), torch.randn(5, 9, dtype=torch.float64)
    student.requires_grad_()
    s, t = log_softmax(student / temperature, 1), log_softmax(teacher / temperature, 1)
    for ours, expected in (
        (forward_kl, kl_div(s, t, log_target=True, reduction="sum")),  # torch's order: kl_div(q, p) is KL(p || q)
        (reverse_kl, kl_div(t, s, log_target=True, reduction="sum")),
    ):
        expected = expected * temperature**2
        loss, gradient = ours(student.detach(), teacher, temperature)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
        assert torch.allclose(gradient, torch.autograd.grad(expected, student, retain_graph=True)[0], atol=1e-10)
    assert forward_kl(student.detach(), teacher, 1.0)[0] != reverse_kl(student.detach(), teacher, 1.0)[0]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_mixture_equals_autograd_through_its_definition(direction: str, temperature: float) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(6, 5, requires_grad=True)
    weight = torch.randn(9, 5, requires_grad=True)
    labels, teacher = torch.randint(0, 9, (6,)), torch.randn(6, 9)
    chunk = mixed_loss(
        labels, lambda rows: teacher[rows].clone(), label_smoothing=0.1, alpha=0.3, temperature=temperature,
        direction=direction,
    )  # fmt: skip
    ours = HeadLoss.apply(hidden, weight, torch.arange(6), chunk)
    logits = hidden @ weight.t()
    s, t = log_softmax(logits / temperature, 1), log_softmax(teacher / temperature, 1)
    soft = kl_div(s, t, log_target=True, reduction="sum") if direction == "forward" else kl_div(
        t, s, log_target=True, reduction="sum"
    )  # fmt: skip
    hard = cross_entropy(logits, labels, label_smoothing=0.1, reduction="sum")
    expected = 0.7 * hard + 0.3 * temperature**2 * soft
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    for a, b in zip(
        torch.autograd.grad(ours, (hidden, weight)), torch.autograd.grad(expected, (hidden, weight)), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-5)


def _batch() -> Batch:
    ids = torch.randint(4, 40, (3, 5), generator=torch.Generator().manual_seed(0))
    return Batch(source=ids, source_mask=torch.ones_like(ids), decoder_input=ids, labels=ids, indices=torch.arange(3))


def _objective(teacher: torch.nn.Module, **changes: float) -> WordDistillation:
    settings = {"label_smoothing": 0.1, "alpha": 0.5, "temperature": 1.0, "direction": "forward", "teacher_until": 10}
    return WordDistillation(teacher=ReferenceForward(teacher, precision="fp32"), **(settings | changes))


def test_without_weight_or_after_its_time_the_teacher_changes_nothing() -> None:
    student = build(SizeSpec(d_model=16, num_layers=1, num_heads=1), vocab_size=40, seed=0).train()
    teacher = build(SizeSpec(d_model=32, num_layers=1), vocab_size=40, seed=1).eval()
    forward = ReferenceForward(student, precision="fp32")
    plain = CrossEntropy(label_smoothing=0.1)(forward, _batch(), step=0).item()
    assert _objective(teacher, alpha=0.0)(forward, _batch(), step=0).item() == pytest.approx(plain, rel=1e-6)
    assert _objective(teacher)(forward, _batch(), step=10).item() == pytest.approx(plain, rel=1e-6)
    assert _objective(teacher)(forward, _batch(), step=9).item() != pytest.approx(plain, rel=1e-3)


def test_only_the_student_gets_a_gradient_and_imitation_lowers_the_divergence() -> None:
    student = build(SizeSpec(d_model=16, num_layers=1, num_heads=1), vocab_size=40, seed=0).train()
    teacher = build(SizeSpec(d_model=32, num_layers=1), vocab_size=40, seed=1).eval()
    before = {name: p.detach().clone() for name, p in teacher.named_parameters()}
    objective = _objective(teacher, alpha=1.0)
    forward = ReferenceForward(student, precision="fp32")
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    losses = []
    for step in range(8):
        loss = objective(forward, _batch(), step=step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in teacher.named_parameters())
