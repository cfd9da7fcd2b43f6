"""The two halves of the method, against their equations."""

from __future__ import annotations

import math

import pytest
import torch

from zs2kit.attention import running_average
from zs2kit.noise import MAX_DIVERGENCE, NOISES, correlation, dependency_noise, draw, make_noise

SHAPE = (4, 48, 48)


def corrcoef(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


@pytest.mark.parametrize("divergence", [0.0, 0.01, 0.25, 1.0, MAX_DIVERGENCE])
def test_every_frame_is_standard_normal_and_neighbours_correlate_by_r(divergence):
    noise = dependency_noise(SHAPE, range(20), divergence, seed=3)
    assert noise.shape == (20, *SHAPE)
    for frame in noise:
        assert abs(frame.mean()) < 0.05 and abs(frame.std() - 1) < 0.05
    r = correlation(divergence)
    assert corrcoef(noise[0], noise[1]) == pytest.approx(r, abs=0.04)
    assert corrcoef(noise[0], noise[5]) == pytest.approx(r**5, abs=0.04)


@pytest.mark.parametrize("divergence", [0.0, 0.1, 0.25, 1.0])
def test_divergence_is_the_statistic_that_the_paper_searches_for(divergence):
    """mean(e^p (p - n)) over neighbours n, p is lambda; the mean of e^p (p - n) for many draws."""
    noise = dependency_noise((4, 1024, 1024), range(2), divergence, seed=0)
    n, p = noise[0].double(), noise[1].double()
    assert (p.exp() * (p - n)).mean().item() == pytest.approx(divergence, abs=0.01)


def test_extremes():
    still = dependency_noise(SHAPE, range(3), 0.0, seed=0)
    assert torch.equal(still[0], still[2])
    independent = dependency_noise(SHAPE, range(3), MAX_DIVERGENCE, seed=0)
    assert torch.allclose(independent[2], draw(SHAPE, 0, "initial", 2), atol=1e-6)


def test_noise_goes_on_across_chunks():
    whole = dependency_noise(SHAPE, range(5), 0.3, seed=1)
    first = dependency_noise(SHAPE, range(2), 0.3, seed=1)
    rest = dependency_noise(SHAPE, range(2, 5), 0.3, seed=1, previous=first[-1])
    assert torch.equal(torch.cat([first, rest]), whole)


def test_draws_differ_by_seed_purpose_frame_and_step():
    base = draw(SHAPE, 0, "initial", 0)
    assert torch.equal(base, draw(SHAPE, 0, "initial", 0))
    for other in (
        draw(SHAPE, 1, "initial", 0),
        draw(SHAPE, 0, "step", 0),
        draw(SHAPE, 0, "initial", 1),
        draw(SHAPE, 0, "initial", 0, 1),
        draw(SHAPE, 1, "initial", 1),
    ):
        assert abs(corrcoef(base, other)) < 0.05


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.98, 1.0])
@pytest.mark.parametrize("carried", [False, True])
def test_running_average_is_the_recursion(momentum, carried):
    torch.manual_seed(0)
    x = torch.randn(6, 9, 5)
    previous = torch.randn(9, 5) if carried else None
    y = []
    last = previous
    for frame in x:
        last = frame if last is None else momentum * last + (1 - momentum) * frame
        y.append(last)
    ours = running_average(x, momentum, previous)
    assert torch.allclose(ours, torch.stack(y), atol=1e-6)
    assert momentum != 0 or torch.equal(ours, x)
    assert momentum != 1 or torch.equal(ours, (x[0] if previous is None else previous).expand_as(x))


def test_half_precision_frames_are_averaged_in_float32():
    """A slow drift that a float16 recursion would lose."""
    drift = torch.linspace(1.0, 1.2, 400, dtype=torch.float64)[:, None, None]
    last = None
    for value in drift.flatten().tolist():
        last = value if last is None else 0.98 * last + 0.02 * value
    exact = last
    ours = running_average(drift.half(), 0.98)[-1].item()
    naive = drift[0].half()
    for frame in drift.half():
        naive = (naive * 0.98).half() + (frame * 0.02).half()
    assert abs(ours - exact) < 1e-3
    assert abs(naive.item() - exact) > 1e-2
    assert math.isfinite(ours)


def test_the_relatives_of_dependency_noise():
    """Neighbours, and frames far apart, correlate as each model says; all frames are standard normal."""
    r = correlation(0.4)
    angle = math.acos(1 - (1 - r) / 0.2)
    expected = {
        "dependency": (r, r**8),
        "mixed": (r, r),
        "orbit": (r, 0.8 + 0.2 * math.cos(8 * angle)),
        "progressive": (2 / math.sqrt(5), (2 / math.sqrt(5)) ** 8),
        "independent": (0, 0),
        "shared": (1, 1),
    }
    assert expected.keys() == set(NOISES)
    for name, (near, far) in expected.items():
        noise, _ = make_noise(name, SHAPE, range(9), 0.4, seed=2)
        for frame in noise:
            assert abs(frame.mean()) < 0.05 and abs(frame.std() - 1) < 0.05
        assert corrcoef(noise[3], noise[4]) == pytest.approx(near, abs=0.04), name
        assert corrcoef(noise[0], noise[8]) == pytest.approx(far, abs=0.04), name


@pytest.mark.parametrize("name", NOISES)
def test_every_noise_goes_on_across_chunks(name):
    whole, _ = make_noise(name, SHAPE, range(5), 0.3, seed=1)
    first, state = make_noise(name, SHAPE, range(2), 0.3, seed=1)
    rest, _ = make_noise(name, SHAPE, range(2, 5), 0.3, 1, state)
    assert torch.allclose(torch.cat([first, rest]), whole, atol=1e-6)
    fresh, _ = make_noise(name, SHAPE, range(2, 5), 0.3, seed=1)  # a new shot
    assert name == "independent" or not torch.allclose(fresh[0], whole[2], atol=1e-2)
