"""Student's t distribution, from the incomplete beta function; the standard library has none.

P(|T| > t) with d degrees of freedom is I(d / (d + t²); d/2, 1/2) (Abramowitz and Stegun, *Handbook of Mathematical
Functions*, 26.7.1 and 26.5.27). The regularized incomplete beta function I(x; a, b) is its continued fraction (DLMF
8.17.22, https://dlmf.nist.gov/8.17) by Lentz's method. Right to about 9 digits; d need not be whole.
"""

from __future__ import annotations

import math
from statistics import NormalDist

__all__ = ["t_quantile", "t_two_sided"]

_TINY = 1e-300
_PRECISION = 1e-13
_MAX_TERMS = 10_000
_MAX_STEPS = 100


def t_two_sided(t: float, degrees: float) -> float:
    """Return P(|T| > |t|), the two-sided p-value."""
    return _beta(degrees / (degrees + t * t), degrees / 2, 0.5)


def t_quantile(probability: float, degrees: float) -> float:
    """Return t with P(T ≤ t) = ``probability`` (0 < probability < 1), by Newton's method.

    The tail is a convex function of t, so from the normal quantile, which is always too small, it comes up to t and
    never passes it.
    """
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    tail = 2 * (1 - probability)
    t = NormalDist().inv_cdf(probability)
    for _ in range(_MAX_STEPS):
        step = (t_two_sided(t, degrees) - tail) / (2 * _density(t, degrees))
        t += step
        if abs(step) <= _PRECISION * t:
            break
    return t


def _density(t: float, degrees: float) -> float:
    scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(degrees * math.pi) / 2
    return math.exp(scale - (degrees + 1) / 2 * math.log1p(t * t / degrees))


def _beta(x: float, a: float, b: float) -> float:
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly, the other tail's converges fast
        return 1 - _beta(1 - x, b, a)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(logarithm) / (a * _fraction(x, a, b))


def _fraction(x: float, a: float, b: float) -> float:
    """1 + d₁/(1 + d₂/(1 + …)) of DLMF 8.17.22."""
    value, numerator, denominator = 1.0, 1.0, 0.0
    for term in range(1, _MAX_TERMS):
        m = term // 2
        if term % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        denominator = 1 / _nonzero(1 + d * denominator)
        numerator = _nonzero(1 + d / numerator)
        factor = numerator * denominator
        value *= factor
        if abs(factor - 1) < _PRECISION:
            break
    return value


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
