"""What the states of gradient scorers take of the memory, counted before they are made."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from curate.curved import Curved
from curate.exact_similarity import ExactSimilarity
from curate.gradient_scorer import GradientScorer
from curate.interfaces import Scorer
from curate.model import trained_shapes
from curate.pipelines.session import Session

if TYPE_CHECKING:
    from curate.pipelines.state import Inputs

T = TypeVar("T")

_WHILE_JOINED = 3  # batches are joined, put in order and written, each a copy
_OF_THE_MACHINE = 0.5  # for states that are made side by side; the rest is for models, batches and everything else


def bytes_of_directions(scorer: GradientScorer, inputs: "Inputs") -> int:
    """4 C M P: the target's directions in memory while pool rows are compared with them."""
    rows = int(inputs.target.manifest["summary"]["used"])
    return 4 * scorer.sets(len(inputs.checkpoints)) * rows * _numbers(scorer, inputs)


def bytes_of_sample(scorer: Scorer, inputs: "Inputs") -> int:
    """4 C m P: the gradients of m pool rows that a Fisher by Woodbury's identity keeps; nothing for other scorers."""
    if not isinstance(scorer, Curved) or scorer.curvature != "woodbury":
        return 0
    rows = min(scorer.fisher_rows, int(inputs.pool.manifest["summary"]["used"]))
    return 4 * _sets(scorer, inputs) * rows * _numbers(scorer, inputs)


def bytes_to_prepare(scorer: Scorer, inputs: "Inputs") -> int:
    """About the most that the scorer holds while it prepares, beside the model; 0 where that is nothing to speak of."""
    if isinstance(scorer, ExactSimilarity):
        return _WHILE_JOINED * bytes_of_directions(scorer.of, inputs) + bytes_of_sample(scorer.of, inputs)
    if not isinstance(scorer, Curved):
        return 0
    if scorer.curvature == "woodbury":
        return _WHILE_JOINED * bytes_of_sample(scorer, inputs)
    sums = sum(2 * 8 * (rows**2 + columns**2) + 2 * 8 * rows * columns for rows, columns in _shapes(scorer, inputs))
    return _sets(scorer, inputs) * sums


def side_by_side(tasks: Sequence[T], size: Callable[[T], int], session: Session) -> Iterator[list[T]]:
    """The tasks in groups whose sizes the machine's memory holds together; one by one on a GPU, whose memory is small."""
    if session.cluster.workers == 1 or session.device != "cpu":
        yield from ([task] for task in tasks)
        return
    from distributed.system import MEMORY_LIMIT

    group: list[T] = []
    held = 0
    for task in tasks:
        more = size(task)
        if group and held + more > _OF_THE_MACHINE * MEMORY_LIMIT:
            yield group
            group, held = [], 0
        group.append(task)
        held += more
    if group:
        yield group


def _sets(scorer: Curved, inputs: "Inputs") -> int:
    return 1 if scorer.checkpoint == "last" else max(1, len(inputs.checkpoints))


def _numbers(scorer: GradientScorer | Curved, inputs: "Inputs") -> int:
    return sum(rows * columns for rows, columns in _shapes(scorer, inputs))


def _shapes(scorer: GradientScorer | Curved, inputs: "Inputs") -> list[tuple[int, int]]:
    return _of_the_model(inputs.handle, scorer.modules if isinstance(scorer.modules, str) else tuple(scorer.modules))


_of_the_model = lru_cache(maxsize=16)(trained_shapes)
