"""What hygiene found in the pool, as part of results.json."""

from pydantic import Field

from curate.core import Config


class LeakShown(Config):
    """A row and an item that it holds, with the words that they share and both texts around them."""

    id: str
    item: str
    verdict: str
    part: str
    kind: str = Field(description="stretches of a long text, a short one as a whole, a phrase inside a sentence, a whole turn, or vectors.")
    cover: float = Field(description="Share of the item's own letters that the row holds; the cosine where the kind is vectors.")
    matched: str
    row_text: str
    item_text: str


class BenchmarkLeaks(Config):
    """One target or evaluation: its items by their worst verdict, and the pool's rows by theirs."""

    name: str
    role: str
    verdict: str
    items: int
    dirty: int = 0
    suspicious: int = 0
    rows_dirty: int = 0
    rows_suspicious: int = 0
    kinds: dict[str, int] = Field(default_factory=dict, description="Dirty pairs of a row and an item, by how they were found.")
    shown: list[LeakShown] = Field(default_factory=list)


class LeakingRow(Config):
    """A row of the pool, and the worst that it leaks of one set."""

    id: str
    benchmark: str
    item: str
    verdict: str
    cover: float


class TakenLeaks(Config):
    """How many of the rows that an arm took leak (dirty), mean over seeds."""

    arm: str
    target: str | None = None
    budget: str
    leaking: float
    rows: float


class CleanedPool(Config):
    """The pool before and after, and what was found in it."""

    benchmarks: list[BenchmarkLeaks] = Field(default_factory=list)
    leaking: list[LeakingRow] = Field(default_factory=list)
    taken: list[TakenLeaks] = Field(default_factory=list)
    duplicates: dict[str, int] = Field(default_factory=dict, description="Rows that repeat another: exact, near, semantic; empty where not looked for.")
    dropped: dict[str, int] = Field(default_factory=dict, description="Rows left out, by reason.")
    notes: list[str] = Field(default_factory=list, description="How rows were compared by vectors, and what is to be doubted.")
    rows: int = Field(0, description="Usable rows before anything was left out.")
    unread: int = Field(0, description="Rows that came as token ids and could not be compared.")
