"""The fifty questions: ten a part, each with a folded answer that leads into its part,
and every number of an answer computed.
"""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import expm
from scipy.stats import norm, spearmanr
from test_on_ramps import BOOK, targets

TEXT = (BOOK / "self-check.md").read_text(encoding="utf-8")
PARTS = {  # the chapters of each
    "koopman": (1, 2),
    "data": (3, 7),
    "hkd": (8, 12),
    "reading": (13, 15),
    "neighbours": (16, 18),
}
QUESTION = re.compile(
    r"^\*\*(\d+)\.\*\* (.+?)\n\n```\{dropdown\} Answer\n(.+?)\n```$", re.M | re.S
)


def part(name):
    body = TEXT.split(f"(check-{name})=")[1]
    return body.split("\n(check-")[0]


def questions(name):
    return {int(n): (asked, told) for n, asked, told in QUESTION.findall(part(name))}


@pytest.mark.parametrize("name", PARTS)
def test_ten_questions_with_folded_answers(name):
    found = questions(name)
    assert list(found) == list(range(1, 11))
    assert len(re.findall(r"^\*\*\d+\.\*\*", part(name), re.M)) == 10
    for asked, told in found.values():
        assert "?" in asked or asked.endswith("."), asked
        assert "See " in told, told


@pytest.mark.parametrize("name", PARTS)
def test_an_answer_leads_into_its_part(name):
    first, last = PARTS[name]
    for number, (_, told) in questions(name).items():
        found = [(stem, place) for stem, place in targets(told) if place]
        inside = [
            s for s, _ in found if s[:2].isdigit() and first <= int(s[:2]) <= last
        ]
        assert inside, f"{name} {number} names no section or label of its part"


def test_the_five_parts_are_all():
    assert len(QUESTION.findall(TEXT)) == 50
    assert re.findall(r"^\(check-(\w+)\)=", TEXT, re.M) == list(PARTS)


def cited(name, number, *values):
    """That the answer states these numbers."""
    told = questions(name)[number][1].replace("{,}", ",")
    for value in values:
        assert value in told, f"{name} {number}: {value} is not in {told!r}"


def test_numbers_of_part_one():
    x = np.random.default_rng(0).standard_normal((50, 2))
    A = np.array([[-0.1, 1.0], [-1.0, -0.1]])
    later = x @ expm(1.7 * A).T
    square = lambda v: (v**2).sum(1)
    assert np.allclose(square(later), np.exp(-0.2 * 1.7) * square(x))  # rate -0.2
    ratio = later[:, 0] ** 2 / x[:, 0] ** 2
    assert ratio.std() > 0.1  # no eigenfunction
    w = x @ [1, 1j]
    assert np.allclose(x[:, 0] ** 2, ((w**2 + w.conj() ** 2 + 2 * abs(w) ** 2) / 4))
    cited("koopman", 2, "-0.2")
    cited("koopman", 3, f"{0.9**2:.2f}")
    # x' = -x^3: x(t)^-2 = x^-2 + 2t, and e^{c/x^2} has the rate 2c
    start = 0.7
    end = (start**-2 + 2 * 1.3) ** -0.5
    assert np.isclose(np.exp(-0.5 / end**2), np.exp(-1.3) * np.exp(-0.5 / start**2))
    b = -1 / (-1 + 0.2)
    cited("koopman", 6, f"{b:.2f}")
    turned = np.exp((-0.5 - 2j) * np.pi / 4)
    assert np.isclose(turned.real, 0)
    cited("koopman", 7, f"{turned.imag:.3f}")
    theta = lambda r: -1.0 * np.log(r)
    assert np.isclose(theta(1.0) - theta(np.e), 1)  # one radian ahead


def test_numbers_of_part_two():
    cited("data", 1, f"{7 - 2 * np.pi:.3f}")
    assert 7 * 0.4 < np.pi < 7 * 1.0
    rate = -np.log(1.1) / 0.1
    cited("data", 2, f"{1 / 1.1:.3f}", f"{rate:.3f}", f"{-np.log(1.1) / 0.05:.3f}")
    cited("data", 4, f"{np.sqrt(1 - 0.6**2):.1f}")
    alpha = lambda sigma: (0.25 + sigma**2) / (4 + sigma**2)
    cited("data", 8, f"{alpha(0):.4f}")
    assert np.isclose(alpha(0.002), 0.0625, rtol=1e-4) and 0.999 < alpha(80) < 1


def test_numbers_of_part_three():
    D = np.tanh(0.5)
    cited("hkd", 1, f"{D:.3f}", f"{0.5 - D:.3f}")
    s = 0.5
    v = 0.5**2 + s**2
    floor = 0.5**2 * s**2 / v
    assert np.isclose(floor / (0.5 * s / np.sqrt(v)) ** 2, 1)
    cited("hkd", 2, f"{floor}")
    cited("hkd", 5, f"{64 * 64:,}", "64", "32")
    cited("hkd", 7, f"{2000 * 1e-4:.1f}", f"{10 / (2000 * 1e-4):.0f}")
    assert round(0.1 / 1e-3) == 100
    x, y = (score - 3250 / n for score, n in ((14.2, 50_000), (14.6, 5_000)))
    assert y < x
    cited("hkd", 9, f"{x:.3f}", f"{y:.2f}")
    A = np.array([[-1.0, 10.0], [0.0, -2.0]])
    mu = np.linalg.eigvalsh((A + A.T) / 2)[-1]
    cited("hkd", 10, f"{mu:.3f}")
    norms = {t: np.linalg.norm(expm(t * A), 2) for t in (0.3, 1.0, 3.0, 10.0, 20.0)}
    assert norms[0.3] > 1 and norms[20.0] < 1e-6  # it grows first, and is stable
    cited("hkd", 10, f"{max(np.exp(t) * size for t, size in norms.items()):.2f}")


def test_numbers_of_part_four():
    log_way = np.log(80 / 0.002)
    rho = np.exp(-2.0)
    log = np.exp(-0.2 * log_way)
    assert log < rho
    cited("reading", 1, f"{log_way:.1f}", f"{rho:.3f}", f"{log:.3f}")
    orders = np.array(list(itertools.permutations(range(8))))
    gaps = ((orders - np.arange(8)) ** 2).sum(1)
    rank = 1 - 6 * gaps / (8 * 63)
    assert np.isclose(rank[77], spearmanr(range(8), orders[77]).statistic)
    cited("reading", 4, f"{len(orders):,}", f"{(abs(rank) >= 0.619).mean():.1%}"[:-1])
    cited("reading", 7, f"{0.5**2 + 0.5**2}")
    cited("reading", 8, f"{0.01 / (1 - 0.8):.2f}")
    weights = np.random.default_rng(0).uniform(-1, 1, 100_000)
    for steps, share in ((127, 254), (7, 14)):
        error = np.round(weights * steps) / steps - weights
        assert np.isclose(error.std() / weights.std(), 1 / share, rtol=0.02)
    cited("reading", 10, "1/14", f"{100 / 14:.1f}")


def test_numbers_of_part_five():
    cited("neighbours", 1, "0.45", "0.25")
    turned = np.array([[0, 0.5], [2.0, 0]])
    assert np.allclose(np.linalg.svd(turned)[1], [2, 0.5])
    assert np.allclose(np.sort(np.linalg.eigvals(turned)), [-1, 1])
    left = [(4_000_000 - 20_000 * cost) / 3 for cost in (35, 9)]
    more = f"{left[1] / left[0] - 1:.0%}".replace("%", " %")
    cited("neighbours", 5, *(f"{n:,.0f}" for n in left), more)
    cited("neighbours", 6, f"{18 * 0.01:.2f}", f"{np.sqrt(18) * 0.01:.3f}")
    cited("neighbours", 9, "-1.2", f"{2 * -0.3:.1f}")
    strays = [f"{100 * (2 * norm.cdf(1 / (2 * g)) - 1):.1f} %" for g in (10, 20)]
    told = questions("neighbours")[10][1].replace("$ %", " %")
    assert all(value in told for value in strays), strays


def test_a_wrong_number_is_noticed():
    with pytest.raises(AssertionError):
        cited("data", 4, "0.81")
    assert Path(BOOK / "self-check.md").stat().st_size > 10_000
