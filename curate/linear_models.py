"""Linear models fitted to weighted rows, strongly convex: ridge regression to numbers, softmax regression to classes.

    F(theta) = sum_i w_i loss_i(theta) + (penalty / 2) |theta|^2,     sum w = 1,

with loss = (x . theta - y)^2 / 2 for a number y, and -log softmax(x . theta)_y for a class y.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Blocks = Callable[[], Iterator[tuple[Matrix, Matrix, Matrix]]]  # x (B, D), y (B,), w (B,), as often as asked for

_ITERATIONS = 1000


@dataclass(frozen=True)
class LinearModel:
    """What is fitted: `classes` is 0 for ridge regression, else the number of classes, which are whole numbers from 0."""

    classes: int
    penalty: float

    def losses(self, x: Matrix, y: Matrix, theta: Matrix) -> Matrix:
        """(n,) the loss of each row."""
        return self._losses_and_slopes(x, y, theta)[0]

    def objective(self, blocks: Blocks, theta: Matrix) -> tuple[float, Matrix]:
        """F and its gradient, block by block."""
        value, slope = self.penalty / 2 * float(np.sum(theta**2)), self.penalty * theta
        for x, y, w in blocks():
            losses, slopes = self._losses_and_slopes(x, y, theta)
            value += float(w @ losses)
            slope = slope + x.T @ (slopes * w[:, None])
        return value, slope

    def fit(self, x: Matrix, y: Matrix, w: Matrix) -> Matrix:
        """(D, 1 or classes) the minimiser, which lies in the span of the rows: with fewer rows than columns only that is searched."""
        if len(x) >= x.shape[1]:
            return self.fit_blocks(lambda: iter([(x, y, w)]), x.shape[1])
        span, triangle = np.linalg.qr(x.T)
        inside = np.ascontiguousarray(triangle.T)
        return np.asarray(span @ self.fit_blocks(lambda: iter([(inside, y, w)]), len(x)))

    def fit_blocks(self, blocks: Blocks, width: int, start: Matrix | None = None) -> Matrix:
        """The minimiser over rows that are read in blocks: normal equations for ridge, O(n D^2); L-BFGS for classes, O(n D classes) a pass."""
        if self.classes == 0:
            return self._ridge(blocks, width)
        from scipy.optimize import minimize

        shape = (width, self.classes)

        def both(flat: Matrix) -> tuple[float, Matrix]:
            value, slope = self.objective(blocks, flat.reshape(shape))
            return value, slope.ravel()

        first = np.zeros(shape) if start is None else start
        options = {"maxiter": _ITERATIONS, "maxfun": 2 * _ITERATIONS, "ftol": 0.0, "gtol": 1e-9, "maxcor": 20}
        return np.asarray(minimize(both, first.ravel(), jac=True, method="L-BFGS-B", options=options).x).reshape(shape)

    def least(self, blocks: Blocks, theta: Matrix) -> float:
        """A number that F is nowhere below: F(theta) - |gradient|^2 / (2 penalty), by strong convexity."""
        value, slope = self.objective(blocks, theta)
        return value - float(np.sum(slope**2)) / (2 * self.penalty)

    def _ridge(self, blocks: Blocks, width: int) -> Matrix:
        gram, right = self.penalty * np.eye(width), np.zeros(width)
        for x, y, w in blocks():
            weighted = x * w[:, None]
            gram += weighted.T @ x
            right += weighted.T @ y
        return np.asarray(np.linalg.solve(gram, right)[:, None], np.float64)

    def _losses_and_slopes(self, x: Matrix, y: Matrix, theta: Matrix) -> tuple[Matrix, Matrix]:
        """(n,) losses, and their derivatives by x . theta."""
        seen = x @ theta
        if self.classes == 0:
            apart = seen[:, 0] - y
            return apart**2 / 2, apart[:, None]
        rows, classes = np.arange(len(y)), y.astype(np.int64)
        top = seen.max(axis=1, keepdims=True)
        raised = np.exp(seen - top)
        total = raised.sum(axis=1)
        losses = np.log(total) + top[:, 0] - seen[rows, classes]
        raised /= total[:, None]
        raised[rows, classes] -= 1
        return losses, raised
