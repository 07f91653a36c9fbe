"""The tests of laws are tests too: their error rates are measured here."""

from __future__ import annotations

import pytest
import torch

from .acceptance import (
    accept,
    accept_means,
    chi_square_quantile,
    chi_square_tail,
    contaminated,
    power,
    sample_size,
)

LAW = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.04, 0.01], dtype=torch.float64)


def draws(law, n, replicates, generator):
    """Multinomial counts `[replicates, S]`."""
    x = torch.multinomial(law, n * replicates, replacement=True, generator=generator).reshape(replicates, n)
    cell = x + len(law) * torch.arange(replicates).unsqueeze(1)
    return cell.flatten().bincount(minlength=len(law) * replicates).reshape(replicates, -1)


def test_chi_square_tail_has_its_closed_form_for_two_degrees_of_freedom():
    assert chi_square_tail(6.0, 2) == pytest.approx(torch.tensor(-3.0).exp().item(), rel=1e-6)
    assert chi_square_tail(chi_square_quantile(26, 1e-4), 26) == pytest.approx(1e-4, rel=1e-9)


def test_alarm_rate(generator):
    counts = draws(LAW, 2000, 4000, generator(1))
    alarms = sum(accept(row, LAW, alarm=0.05).outcome == "fail" for row in counts)
    assert abs(alarms - 200) < 4 * 13.8  # binomial(4000, .05)


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_power_is_not_overstated(share, generator):
    other, n = contaminated(LAW, share), 1500
    counts = draws(other, n, 2000, generator(2))
    seen = sum(accept(row, LAW, alarm=0.01).outcome == "fail" for row in counts) / 2000
    claimed = power(LAW, other, n, alarm=0.01)
    assert claimed < seen + 0.05
    assert claimed > seen - 0.15  # nor useless


def test_accept_answers_all_three(generator):
    fault = contaminated(LAW)
    n = sample_size(LAW, [fault])
    x = torch.multinomial(LAW, n, replacement=True, generator=generator(3)).bincount(minlength=6)
    assert accept(x, LAW, [fault]).outcome == "pass"
    y = torch.multinomial(fault, n, replacement=True, generator=generator(3)).bincount(minlength=6)
    assert accept(y, LAW, [fault]).outcome == "fail"
    assert accept(x // 100, LAW, [fault]).outcome == "underpowered"
    assert not accept(x // 100, LAW, [fault])
    assert accept(x, LAW).outcome == "underpowered"


def test_an_impossible_outcome_fails():
    law = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    assert accept(torch.tensor([500, 500, 1]), law, [torch.tensor([0.9, 0.1, 0.0])]).outcome == "fail"
    assert power(law, torch.tensor([0.49, 0.49, 0.02], dtype=torch.float64), 10_000) > 1 - 1e-4


def test_rare_cells_are_pooled(generator):
    law = torch.cat([torch.tensor([0.6, 0.39]), torch.full((100,), 1e-4)]).double()
    counts = draws(law, 3000, 2000, generator(4))
    alarms = sum(accept(row, law, alarm=0.05).outcome == "fail" for row in counts)
    assert abs(alarms - 100) < 4 * 9.7


def test_accept_means(generator):
    values = torch.randn(20_000, 3, dtype=torch.float64, generator=generator(5))
    truth = torch.zeros(3, dtype=torch.float64)
    assert accept_means(values, truth, torch.tensor([[0.1, 0.0, 0.0]])).outcome == "pass"
    assert accept_means(values, truth, torch.tensor([[0.01, 0.0, 0.0]])).outcome == "underpowered"
    assert accept_means(values + torch.tensor([0.0, 0.1, 0.0]), truth).outcome == "fail"
