"""The contract of a method as a suite that anyone can run over their own: `check_selector(MySelector())`, `check_scorer(MyScorer(), ...)`.

Every check raises `Nonconforming`, an AssertionError, with one sentence that says which promise was broken.
"""

from curate.testing.component import Nonconforming
from curate.testing.scorer import check_scorer
from curate.testing.selector import check_selector, sample_features

__all__ = ["Nonconforming", "check_scorer", "check_selector", "sample_features"]
