"""What is freed goes back to the system, seldom unless asked."""

import subprocess
import sys

import pytest

from curate import freed

HOLES = """
import re
from pathlib import Path
from curate.freed import _trim, give_back
own = lambda: int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
pieces = [bytes(2000) for _ in range(50000)]
pieces = pieces[::100]  # freed, but for a piece in every 200 kB
before = own()
print(_trim() is not None, before, give_back(), own(), give_back(), give_back(at_once=True))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_between_pieces_that_stay_is_given_back_and_not_at_every_call() -> None:
    found = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True, timeout=60).stdout.split()
    can, before, first, after, second, _ = found
    if can == "False":
        pytest.skip("this C library gives nothing back")
    assert first == "True" and second == "False"
    assert float(before) - float(after) > 50


def test_a_c_library_without_it_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freed, "_trim", lambda: None)
    assert not freed.give_back(at_once=True)
