"""Steps of decoding, recorded once and then started as one where a GPU would wait for the processor.

A pass of one token a row is some hundred kernels of a few microseconds each, and a processor takes longer to start them than a GPU to compute them. A CUDA
graph starts all at once. It reads and writes at the addresses that it was recorded with: those of the state, while it stands, and those of the tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from curate.beat import beat
from curate.inference.decoding import Decoding
from curate.inference.passes import forward, logits_of
from curate.model import LanguageModel

if TYPE_CHECKING:
    from curate.inference.growing import Decodes

SETTLED = 2  # passes of the same rows before one is recorded: a recording costs as much as two passes or three
WORTH = 8  # passes that must be left
HELD = 0.75  # share of the rows that must go on; or those that ended are dropped

Compute = Callable[[], Tensor]
Record = Callable[[Compute], Compute]


_latest: dict[str, torch.cuda.CUDAGraph] = {}  # by device: kept, so that the next one takes its memory


def cuda_graph(device: str, compute: Compute) -> Compute:
    """The same computation at the same addresses, started as one; good until the next is recorded.

    RuntimeError where it asks the GPU for a number on its way, and so cannot be recorded.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(_stream(device)):
            graph.capture_begin(_latest[device].pool() if device in _latest else None, capture_error_mode="thread_local")
            try:
                result = compute()
            finally:
                graph.capture_end()
    except RuntimeError:
        _latest.pop(device, None)
        _stream.cache_clear()  # which may refuse all others after one that failed
        raise
    _latest[device] = graph

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


@lru_cache(maxsize=16)
def _stream(device: str) -> Any:
    """Where passes are recorded: memory that was taken on one stream is not used again on another."""
    return torch.cuda.Stream(device)


def recorder(device: str) -> Record | None:
    """What records a pass on this device; None where there is nothing to be gained."""
    return partial(cuda_graph, device) if device.startswith("cuda") else None


@dataclass
class Steps:
    """One token more for each of the rows of a state, pass by pass: computed, or recorded once the rows stay the same."""

    model: LanguageModel
    state: "Decodes"
    record: Record | None
    _replay: Compute | None = field(default=None, init=False)
    _tokens: Tensor = field(init=False)  # (B, 1) that a recording reads
    _positions: Tensor = field(init=False)
    _room: int = field(default=0, init=False)  # passes that the recording is good for
    _same: int = field(default=0, init=False)  # passes since rows were dropped

    def __call__(self, following: Tensor, positions: Tensor, left: int) -> Tensor:
        """(B, V) the logits behind these tokens (B,) at these positions (B,); `left` more passes may come, this one among them.

        They are good until the next pass.
        """
        if self._replay is not None and not self._room:
            self._stop()
        if self._replay is None and self._same >= SETTLED and left >= WORTH:
            self._start(following.unsqueeze(1), positions.unsqueeze(1))
        if self._replay is None:
            logits = self._computed(following.unsqueeze(1), positions.unsqueeze(1))
        else:
            beat()
            self._tokens.copy_(following.unsqueeze(1))
            self._positions.copy_(positions.unsqueeze(1))
            logits = self._replay()
            self._room -= 1
        self.state.advance()
        self._same += 1
        return logits

    def hold(self, going: int, rows: int) -> bool:
        """Whether it costs less to go on computing all `rows` than to record a pass of those that go on, once they have settled."""
        return self.record is not None and isinstance(self.state, Decoding) and going > HELD * rows

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self._stop()
        self._same = 0
        self.state.keep(rows)

    def _computed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return logits_of(self.model, forward(self.model, tokens, positions, self.state)[:, -1])

    def _start(self, tokens: Tensor, positions: Tensor) -> None:
        if self.record is None or not isinstance(self.state, Decoding):
            return
        self._room = self.state.stand()
        self._tokens, self._positions = tokens.clone(), positions.clone()
        try:
            self._replay = self.record(lambda: self._computed(self._tokens, self._positions))
        except RuntimeError:  # passes of these rows were computed before, so what fails is the recording: of a model that decides by numbers on the GPU
            self.record = None
            self._stop()

    def _stop(self) -> None:
        self._replay = None
        if isinstance(self.state, Decoding):
            self.state.move()
