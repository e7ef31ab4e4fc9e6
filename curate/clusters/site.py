"""What a run asks of every worker: the folders that it must see, and the device that its tasks use."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Site:
    """The store and the run's folder, absolute, and the device; without folders only code and libraries are compared."""

    store: Path | None = None
    run: Path | None = None
    device: str = "cpu"

    @property
    def folders(self) -> list[Path]:
        """Where sentinels lie: workers write in both folders."""
        return [folder for folder in (self.store / ".part" if self.store else None, self.run) if folder is not None]


ANYWHERE = Site()
