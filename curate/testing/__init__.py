"""The contract of a method as a suite to run over one's own: `check_selector(MySelector())`, `check_scorer(MyScorer(), ...)`, `check_press(MyPress())`.

Every check raises `Nonconforming`, an AssertionError, with one sentence that says which promise was broken.
"""

from curate.testing.component import Nonconforming
from curate.testing.press import check_press
from curate.testing.scorer import check_scorer
from curate.testing.selector import check_selector, sample_features

__all__ = ["Nonconforming", "check_press", "check_scorer", "check_selector", "sample_features"]
