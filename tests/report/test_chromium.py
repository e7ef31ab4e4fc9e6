"""The page in a real browser: nothing is refused, nothing is empty, nothing runs out of the window, and links and tabs work."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from curate.report import html
from curate.report.results import Results
from tests.report.wide_run import hostile, wide_run

BROWSER = next((found for name in ("chromium", "google-chrome", "chromium-browser") if (found := shutil.which(name))), "")
LOOKS = (("wide.html", 360), ("wide.html", 1200), ("hostile.html", 360), ("small.html", 1200))  # page, pixels across

pytestmark = pytest.mark.skipif(not BROWSER, reason="needs Chromium or Chrome")

# Opens the page in a frame of each width, clicks every link and a tab, shows every panel, and measures.
PROBE = """<!doctype html><body><script>
const found = {};
async function look(width, page) {
  const frame = document.createElement('iframe');
  frame.style.cssText = `width:${width}px;height:800px;border:0`;
  frame.src = page;
  const ready = new Promise(done => frame.onload = done);
  document.body.append(frame);
  await ready;
  const view = frame.contentWindow, doc = frame.contentDocument, all = what => [...doc.querySelectorAll(what)];
  const out = {scripts: doc.scripts.length, links: {}, tabs: []};
  for (const link of all('a')) {
    link.click();
    await new Promise(done => setTimeout(done, 0));
    const box = doc.querySelector(link.getAttribute('href')).getBoundingClientRect();
    out.links[link.getAttribute('href')] = (box.top >= 0 && box.top < 400) || view.innerHeight + view.scrollY >= doc.documentElement.scrollHeight - 1;
  }
  const tabs = doc.querySelector('.tabs'), panels = [...tabs.children].filter(one => one.className == 'panel');
  const showing = () => panels.map(one => one.getBoundingClientRect().height > 0);
  out.tabs.push(showing());
  tabs.querySelectorAll('label')[1].click();
  out.tabs.push(showing());
  doc.head.insertAdjacentHTML('beforeend', '<style>.panel { display: block !important; }</style>');
  all('details').forEach(one => one.open = true);
  out.wide = [doc.documentElement.scrollWidth, doc.documentElement.clientWidth];
  out.outside = all('main *').filter(one => !one.closest('.scroll') && !one.closest('.ends > div *') && one.tagName != 'INPUT')
    .filter(one => { const box = one.getBoundingClientRect(); return box.width + box.height > 0 && (box.right > view.innerWidth + 1 || box.left < -1); })
    .map(one => one.outerHTML.slice(0, 120)).slice(0, 5);
  const pictures = all('main svg').filter(one => !one.parentElement.closest('svg') && !one.closest('tr.base'));
  out.pictures = pictures.length;
  const flat = one => { const box = one.getBoundingClientRect(); return box.width < 10 || box.height < 10; };
  out.empty = pictures.filter(one => !one.matches('.leads')).filter(one => flat(one) || ![...one.querySelectorAll('path,rect,circle,line,use,text')]
    .some(mark => { const box = mark.getBoundingClientRect(); return box.width > 0.5 || box.height > 0.5; }))
    .map(one => one.outerHTML.slice(0, 120)).slice(0, 5);
  out.touching = all('.ends, .side').filter(one => {
    const tops = [...one.children].map(name => name.getBoundingClientRect()).sort((a, b) => a.top - b.top);
    return tops.some((box, i) => i && box.top < tops[i - 1].bottom - 1);
  }).length;
  out.named = all('.ends > div').length;
  out.crowded = all('.ys, .xs').filter(one => {
    const boxes = [...one.children].map(name => name.getBoundingClientRect());
    return boxes.some((a, i) => boxes.some((b, j) => j > i && a.left < b.right && b.left < a.right && a.top < b.bottom - 2 && b.top < a.bottom - 2));
  }).length;
  return out;
}
(async () => {
  for (const [page, width] of LOOKS) found[`${page} ${width}`] = await look(width, page);
  const told = document.createElement('pre');
  told.id = 'told';
  told.textContent = JSON.stringify(found);
  document.body.replaceChildren(told);
})();
</script>"""


def chromium(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What the browser printed: the page on standard output, its console on standard error."""
    quiet = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--hide-scrollbars")
    logged = ("--enable-logging=stderr", "--v=0", f"--user-data-dir={folder / 'profile'}")
    return subprocess.run([BROWSER, *quiet, *logged, *arguments], capture_output=True, text=True, timeout=120, check=False)


def console(run: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in run.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, results: Results) -> Path:
    """Three reports, and the page that looks at them."""
    folder = tmp_path_factory.mktemp("pages")
    wide = wide_run()
    for name, run in (("wide", wide), ("hostile", hostile(wide)), ("small", results)):
        (folder / f"{name}.html").write_text(html.render(run), encoding="utf-8")
    (folder / "probe.html").write_text(PROBE.replace("LOOKS", json.dumps(LOOKS)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[str]:
    """The folder served on this machine, so that the probe may look into its frames."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def looked(folder: Path, site: str) -> tuple[dict[str, Any], list[str]]:
    """What the probe measured, and everything on the console meanwhile."""
    run = chromium(folder, "--virtual-time-budget=60000", "--dump-dom", f"{site}/probe.html")
    start = run.stdout.index('<pre id="told">') + len('<pre id="told">')
    raw = run.stdout[start : run.stdout.index("</pre>", start)]
    return json.loads(raw.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")), console(run)


def test_the_page_loads_without_a_word_on_the_console(looked: tuple[dict[str, Any], list[str]]) -> None:
    pages, said = looked
    assert len(pages) == len(LOOKS) and said == []
    assert all(page["scripts"] == 0 for page in pages.values())


def test_every_link_leads_to_its_section(looked: tuple[dict[str, Any], list[str]]) -> None:
    for name, page in looked[0].items():
        assert len(page["links"]) >= 5 and [link for link, there in page["links"].items() if not there] == [], name


def test_a_tab_shows_its_panel_and_hides_the_others(looked: tuple[dict[str, Any], list[str]]) -> None:
    for name, page in looked[0].items():
        before, after = page["tabs"]
        assert before.index(True) == 0 and after.index(True) == 1 and sum(before) == sum(after) == 1, name


def test_nothing_runs_out_of_the_window_on_a_phone_or_a_desk(looked: tuple[dict[str, Any], list[str]]) -> None:
    for name, page in looked[0].items():
        assert page["outside"] == [], name
        assert page["wide"][0] <= page["wide"][1], name


def test_every_chart_has_marks_and_no_names_on_top_of_each_other(looked: tuple[dict[str, Any], list[str]]) -> None:
    for name, page in looked[0].items():
        assert page["empty"] == [] and page["touching"] == 0 and page["crowded"] == 0, name
    assert looked[0]["wide.html 360"]["pictures"] > 500 and looked[0]["wide.html 360"]["named"] > 80


def test_a_script_that_got_in_would_be_refused_and_seen_here(folder: Path) -> None:
    page = (folder / "small.html").read_text(encoding="utf-8").replace("</main>", '<script>document.title = "seized"</script><img src="x.png"></main>')
    (folder / "attacked.html").write_text(page, encoding="utf-8")
    run = chromium(folder, "--dump-dom", f"file://{folder / 'attacked.html'}")
    assert "<title>seized" not in run.stdout and "<title>banking-from-mixed-pool" in run.stdout
    assert len([line for line in console(run) if "Content Security Policy" in line]) == 2


@pytest.mark.parametrize(("scheme", "dark"), [("1", False), ("0", True)])
def test_light_and_dark_are_drawn_as_asked(folder: Path, scheme: str, dark: bool) -> None:
    picture = folder / f"{scheme}.png"
    asked = f"--blink-settings=preferredColorScheme={scheme}"
    chromium(folder, asked, "--window-size=800,1200", f"--screenshot={picture}", f"file://{folder / 'small.html'}")
    grey = np.asarray(Image.open(picture).convert("L"), dtype=np.float64)
    assert (grey[-1, 1] < 60) == dark and (grey[-1, 1] > 200) != dark
    assert (np.abs(grey - grey[-1, 1]) > 60).mean() > 0.02
