"""Training dynamics: how sure, how right and how steady a model was about each item while it learned.

All of them are functions of logits (S, V) and labels (S,), so a classifier of images (an item is an image) and a language
model (an item is an answer token) share this code. Only running sums are kept, never the logits of the items over time. A
row with a logit that is NaN or +infinity gives NaN; -infinity is a class that is ruled out.

EL2N is of Paul et al., "Deep Learning on a Data Diet", NeurIPS 2021; the margin, averaged over training, is the AUM of
Pleiss et al., "Identifying Mislabeled Data using the Area Under the Margin Ranking", NeurIPS 2020; forgetting is of Toneva
et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning", ICLR 2019.
"""

import torch
from torch import Tensor

from curate.errors import DataError


def el2n(logits: Tensor, labels: Tensor) -> Tensor:
    """|softmax(z) - onehot(y)|_2 of each row, (S,), in [0, sqrt 2]: 0 is certain and right, sqrt 2 certain and wrong.

    Computed as (1 - p_y) sqrt(1 + |q|^2), with q the softmax over the other classes and 1 - p_y the sigmoid of
    logsumexp_{j != y} z_j - z_y: nothing cancels, where sum p^2 - 2 p_y + 1 loses every digit of a score below 3e-4.
    """
    label, rival, others = _split(logits, labels)
    weights = (others - rival.unsqueeze(1)).exp_()
    total = weights.sum(1)
    wrong = (total.log() - (label - rival)).sigmoid()
    spread: Tensor = torch.linalg.vector_norm(weights, dim=1) / total
    return wrong * spread.square().add(1).sqrt()


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """z_y - max_{j != y} z_j of each row in logits, (S,): positive is right, near 0 undecided, far below 0 taken for another class."""
    label, rival, _ = _split(logits, labels)
    return label - rival


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the greedy prediction is the label, else 0, float32 (S,); of tied classes the first is predicted, as greedy decoding does."""
    logits, labels = _checked(logits, labels)
    best, predicted = logits.max(1)
    return (predicted == labels).float().masked_fill(~best.isfinite(), float("nan"))


class Transitions:
    """Forgetting events of N items: how often one that was predicted right is wrong at its next presentation.

    Holds four numbers per item, on the CPU.
    """

    def __init__(self, items: int) -> None:
        if items < 0:
            raise DataError(f"training dynamics of {items} items; give their number, 0 or more")
        self.presentations = torch.zeros(items, dtype=torch.int64)
        # float64 rather than integers: a prediction that is NaN makes its item NaN in all that follows, and no other
        self._events = torch.zeros(items, dtype=torch.float64)
        self._right = torch.zeros(items, dtype=torch.float64)
        self._last = torch.zeros(items, dtype=torch.float64)

    def update(self, items: Tensor, right: Tensor) -> None:
        """Take in one presentation of each of `items` (S,), with 1 or 0 in `right` (S,); an item may come twice, in order."""
        items = self.checked(items, len(right))
        if not len(items):
            return
        items, order = items.sort(stable=True)
        right = right.detach().cpu().double()[order]
        first = torch.cat([torch.ones(1, dtype=torch.bool), items[1:] != items[:-1]])
        before = torch.where(first, self._last[items], right.roll(1))
        last = first.roll(-1)
        self._events.index_add_(0, items, before * (1 - right))
        self._right.index_add_(0, items, right)
        self._last[items[last]] = right[last]
        self.presentations += items.bincount(minlength=len(self.presentations))

    def forgetting(self) -> Tensor:
        """Events per item, float64 (N,): 0 is learned and kept; NaN if never presented.

        An item that was never right has no event either, yet it is the hardest there is. It counts as many events as any
        item had presentations, P: a learned one has at most P / 2, so all that were never learned rank above all that
        were, and unlike infinity P can be averaged, binned and stored.
        """
        shown = self.presentations > 0
        never = int(self.presentations.max()) if len(shown) else 0
        return torch.where(self._right == 0, float(never), self._events).masked_fill(~shown, float("nan"))

    def checked(self, items: Tensor, rows: int) -> Tensor:
        """The item numbers on the CPU, if they are whole numbers below N, one per row."""
        n = len(self.presentations)
        if items.ndim != 1 or len(items) != rows:
            raise DataError(f"items have shape {tuple(items.shape)} but there are {rows} rows; give one item number per row")
        if items.dtype.is_floating_point or items.dtype == torch.bool:
            raise DataError(f"items are {items.dtype}; give the number of each item, from 0 to {n - 1}")
        found = items.detach().cpu().long()
        if rows and not 0 <= int(found.min()) <= int(found.max()) < n:
            raise DataError(f"items lie in [{found.min()}, {found.max()}], but this run has {n}, numbered from 0")
        return found


class Dynamics:
    """The scores of one training run over N items, from what the model says of them while it trains.

    Call `update` with each batch of training (before or after its step, but always the same), or with all items once per
    checkpoint; logits may be on any device, the state is six numbers per item on the CPU. An item with a row that gave
    NaN has NaN in all three scores, and so has one that was never presented.
    """

    def __init__(self, items: int) -> None:
        self._transitions = Transitions(items)
        self._el2n = torch.zeros(items, dtype=torch.float64)
        self._margin = torch.zeros(items, dtype=torch.float64)

    @property
    def presentations(self) -> Tensor:
        """How often each item was presented, int64 (N,)."""
        return self._transitions.presentations

    def update(self, items: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Take in one presentation of each of `items` (S,) with logits (S, V) and labels (S,).

        An item that comes twice in a batch was presented twice, in the order of the rows.
        """
        logits = logits.detach()
        right, errors, margins = correct(logits, labels), el2n(logits, labels), margin(logits, labels)
        items = self._transitions.checked(items, len(right))
        self._transitions.update(items, right)
        self._el2n.index_add_(0, items, errors.cpu().double())
        self._margin.index_add_(0, items, margins.cpu().double())

    def el2n(self) -> Tensor:
        """Mean EL2N over an item's presentations, float64 (N,) in [0, sqrt 2]; high is hard or wrong."""
        return self._el2n / self.presentations

    def margin(self) -> Tensor:
        """AUM: mean margin over an item's presentations in logits, float64 (N,); low is hard or mislabelled."""
        return self._margin / self.presentations

    def forgetting(self) -> Tensor:
        """Forgetting events of each item, float64 (N,); high is unsteady, and never learned the highest (see `Transitions`)."""
        return self._transitions.forgetting()


def _split(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The label's logit and the best of the others (S,), and all logits with the label's at -infinity (S, V)."""
    logits, labels = _checked(logits, labels)
    column = labels.unsqueeze(1)
    label, others = logits.gather(1, column).squeeze(1), logits.scatter(1, column, float("-inf"))
    rival = others.amax(1)
    usable = rival.isfinite() & (label < float("inf"))
    return label.masked_fill(~usable, float("nan")), rival, others


def _checked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits in float32 or wider and labels beside them, if they fit each other."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise DataError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not fit; give (rows, classes) and (rows,)")
    classes = logits.shape[1]
    if classes < 2:
        raise DataError(f"training dynamics compare the label with the other classes, but logits have {classes}; give at least 2")
    labels = labels.to(logits.device).long()
    if len(labels) and not bool(((labels >= 0) & (labels < classes)).all()):
        raise DataError(f"labels lie in [{labels.min()}, {labels.max()}], but there are {classes} classes, numbered from 0; leave out rows without a label")
    return logits.to(torch.promote_types(logits.dtype, torch.float32)), labels
