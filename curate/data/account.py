"""Whether examples that were made of others account for every row, by id."""

from curate.core import Artifact
from curate.data.examples import open_examples, quarantined


def _ids(artifact: Artifact) -> tuple[set[str], set[str]]:
    """Those of the rows that are used, and of those that are set aside."""
    return set(open_examples(artifact.path).ids.tolist()), {row["id"] for row in quarantined(artifact.path)}


def unaccounted(artifact: Artifact, whole: Artifact) -> list[str]:
    """What is wrong with the account of a cleaned pool: every usable row of the whole is kept or dropped, by id, and no other is."""
    (kept, aside), (before, aside_before) = _ids(artifact), _ids(whole)
    dropped = aside - aside_before
    if kept & dropped or kept | dropped != before or not aside_before <= aside:
        return [f"{artifact.path}: {len(before)} rows came in, but {len(kept)} are kept and {len(dropped)} dropped"]
    return []


def unaccounted_growth(artifact: Artifact, before: Artifact, added: Artifact | None = None) -> list[str]:
    """What is wrong with the account of a grown pool: each row of either is there, or set aside, by id, and no other is."""
    here, aside = _ids(artifact)
    known = {row for one in (before, added) if one for ids in _ids(one) for row in ids}
    if here & aside or here | aside != known:
        return [f"{artifact.path}: {len(known)} rows are known, but {len(here)} are used and {len(aside)} set aside"]
    return []
