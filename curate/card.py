"""The card of an exported data set as data: what was chosen for what, how, how far from optimal, from where, and how to make it again."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from curate.core import Config
from curate.report.results import CertificateRow

_BEFORE = r"(?<![\w:/.*>)\]}-])"
_PATH = re.compile(rf"(?:file://|{_BEFORE}(?:~\w*)?/(?=[^\s/])|(?<!\w)[A-Za-z]:\\|\\\\)[^\s\"',;\]}})]*(?: +[^\s\"',:/\\]*[/\\][^\s\"',]*)*")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
LOCAL = "<local>"  # stands for a folder of somebody's machine
# The identifiers of https://huggingface.co/docs/hub/repositories-licenses; the Hub refuses others.
LICENCES = frozenset(
    (
        "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd "
        "bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 "
        "cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
        "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 "
        "isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license llama2 gemma "
        "unknown other"
    ).split()
)


class Source(Config):
    """One part of the pool that the rows come from."""

    name: str
    hub: bool = Field(False, description="Whether the name is that of a Hub dataset.")
    revision: str = "unknown"
    license: str = "unknown"


class Chosen(Config):
    """One selection: what was chosen for what, how, and how it compares."""

    config: str = "default"
    arm: str = ""
    target: str = Field("", description="What the rows were chosen for.")
    budget: str = ""
    seed: int | None = None
    pool_rows: int | None = None
    method: str = Field("", description="The arm as it stands in the recipe, as YAML.")
    formulas: list[str] = Field(default_factory=list, description="What each method computes, a line each.")
    certificate: CertificateRow | None = None
    comparison: list[list[str]] = Field(default_factory=list, description="Task, metric, this arm, random, difference with interval, verdict.")
    leaking: str = Field("", description="How many of these rows leak a target or an evaluation, in a sentence.")
    key: str = Field("", description="Key of the stored selection.")


class Card(Config):
    """What the card and the manifest say besides the rows; local paths are taken out of every field."""

    name: str
    chosen: list[Chosen] = Field(default_factory=list)
    sources: list[Source] = Field(default_factory=list)
    licenses: dict[str, dict[str, int]] = Field(default_factory=dict, description="Rows by the licence and the source that they themselves name.")
    license: str = Field("", description="What the one who exports states; the roll-up of sources and rows otherwise.")
    language: list[str] = Field(default_factory=list)
    tags: list[str] = Field(default_factory=list)
    leaks: list[list[str]] | None = Field(None, description="Header and rows of the leak report; None where nothing was checked.")
    recipe: str = Field("", description="The resolved recipe, as YAML.")
    command: str = ""
    model: str = Field("", description="Name of the model on the Hub, for the trainer's snippet.")
    inputs: dict[str, Any] = Field(default_factory=dict, description="Revisions and hashes of pool, targets, model and features.")
    versions: dict[str, str] = Field(default_factory=dict)


def licence_of(card: Card) -> tuple[list[str], str]:
    """Identifiers that the Hub knows, and a name where that is `other`: as stated, or the roll-up of what sources and rows name."""
    of_rows = list(card.licenses) if set(card.licenses) - {"unknown"} else []
    named = [card.license] if card.license else of_rows or [source.license for source in card.sources]
    given = [one.strip() for one in named if one.strip()]
    known = list(dict.fromkeys(one.lower() if one.lower() in LICENCES else "other" for one in given))
    odd = list(dict.fromkeys(one for one in given if one.lower() not in LICENCES))
    slug = "-and-".join(re.sub(r"[^a-z0-9.]+", "-", one.lower()).strip("-") for one in odd)[:80]
    return known or ["unknown"], slug or ("unnamed" if odd else "")


def without_local_paths(value: Any) -> Any:
    """The same value with every absolute path cut to its file name and every access token taken out."""
    if isinstance(value, str):
        for root in sorted({os.getcwd(), str(Path.home())}, key=len, reverse=True):
            if root != os.path.dirname(root):
                value = re.sub(rf"{_BEFORE}{re.escape(root)}(?![\w.-])", "/folder", value)  # it may hold spaces; what stays must not depend on it
        return _TOKEN.sub("<token>", _PATH.sub(_file_name, value))
    if isinstance(value, Mapping):
        return {without_local_paths(key): without_local_paths(item) for key, item in value.items()}
    return [without_local_paths(item) for item in value] if isinstance(value, list | tuple) else value


def _file_name(path: re.Match[str]) -> str:
    # The last part of a folder's path may be the user's name; that of a file has an ending.
    last = re.split(r"[/\\]", path[0].rstrip("/\\"))[-1]
    return f"{LOCAL}/{last}" if "." in last.strip(".") or "*" in last else LOCAL


def cleaned(card: Card) -> Card:
    """The card without local paths and tokens, which is all that is ever written of it."""
    return Card.model_validate(without_local_paths(card.model_dump()))
