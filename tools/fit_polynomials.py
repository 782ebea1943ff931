"""Derives the polynomials of csrc/include/{normal,exponential,likelihood,mixture}.h and betavae_fast/noise.py.

Minimax fits by linear programming: min e subject to |p(x) - f(x)| w(x) <= e on a Chebyshev grid. Needs scipy.

    python tools/fit_polynomials.py
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

Array = NDArray[np.float64]
GRID = 600


def chebyshev_grid(low: float, high: float) -> Array:
    return (low + high) / 2 + (high - low) / 2 * np.cos(np.pi * (np.arange(GRID) + 0.5) / GRID)


def minimax(powers: list[int], x: Array, target: Array, weight: Array) -> tuple[Array, float]:
    """The coefficients of x**powers, and the weighted error of the fit."""
    basis = np.stack([x**p for p in powers], 1) * weight[:, None]
    scale, goal = np.abs(basis).max(0), target * weight
    a = np.block([[basis / scale, -np.ones((len(x), 1))], [-basis / scale, -np.ones((len(x), 1))]])
    # The solver's tolerances are absolute, about 1e-10, so errors are scaled to the order of 1e-3.
    solution = linprog(
        np.r_[np.zeros(len(powers)), 1],
        A_ub=a,
        b_ub=1e3 * np.r_[goal, -goal],
        bounds=[(None, None)] * len(powers) + [(0, None)],
        method="highs-ds",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    return solution.x[:-1] / scale / 1e3, solution.x[-1] / 1e3


def show(name: str, coefficients: Array, error: float) -> None:
    rounded = ", ".join(float(np.float32(c)).hex() for c in coefficients)
    print(f"{name}: error {error:.2e}\n  {rounded}")


def main() -> None:
    # -2 ln(1 + f) is the whole squared radius near u = 1 (f <= 0); the other octaves add 2 ln 2 or more. The error of
    # interest is that of the radius, d(r) = d(r^2) / 2r.
    low = np.sqrt(0.5) - 1
    first, others = chebyshev_grid(low, 0.0), chebyshev_grid(low, np.sqrt(2) - 1)
    f = np.r_[first, others]
    radius = np.sqrt(np.r_[-2 * np.log1p(first), -2 * np.log1p(others) + 2 * np.log(2)])
    show("log", *minimax([1, 2, 3, 4, 5, 6], f, -2 * np.log1p(f), 1 / (2 * radius)))

    t = chebyshev_grid(0.0, 0.5)
    show("sin", *minimax([1, 3, 5, 7], t, np.sin(t * np.pi / 2), np.ones(GRID)))
    show("cos - 1", *minimax([2, 4, 6], t, np.cos(t * np.pi / 2) - 1, np.ones(GRID)))

    r = chebyshev_grid(-np.log(2) / 2, np.log(2) / 2)
    q = np.where(np.abs(r) < 1e-3, 0.5 + r / 6 + r**2 / 24, (np.expm1(r) - r) / r**2)
    show("(e^r - 1 - r) / r^2", *minimax([0, 1, 2, 3, 4], r, q, 1 / q))

    # The constant term is 1, so only the remaining terms are fitted.
    e = chebyshev_grid(1e-4, 1.0)
    show("log1p(e) / e - 1", *minimax([1, 2, 3, 4, 5, 6, 7, 8], e, np.log1p(e) / e - 1, e / np.log1p(e)))

    # 2^f = 1 + f q(f), so that the error of q hardly matters around f = 0.
    f = chebyshev_grid(-0.5, 0.5)
    q = np.where(np.abs(f) < 1e-4, np.log(2) + f * np.log(2) ** 2 / 2, (np.exp2(f) - 1) / f)
    show("(2^f - 1) / f", *minimax([0, 1, 2, 3, 4], f, q, np.abs(f) / np.exp2(f) + 1e-3))


if __name__ == "__main__":
    main()
