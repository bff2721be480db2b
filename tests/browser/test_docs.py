"""The site that `make docs` writes, visited page by page in a browser, on a desk and on a telephone."""

import os
import re
import shutil
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urldefrag, urljoin

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="the browser's driver is not installed")
ROOT = Path(__file__).resolve().parent.parent.parent
CHROMIUM = (
    os.environ.get("CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("chromium-browser")
    or shutil.which("google-chrome")
)
WIDTHS = {"desk": 1200, "telephone": 390}
PAGE = """() => {
  const inCode = n => n.closest('code, pre, script, style');
  const words = [];
  const walk = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) if (!inCode(walk.currentNode.parentElement)) words.push(walk.currentNode.data);
  const all = (what, attribute) => [...document.querySelectorAll(what)].map(n => n[attribute]);
  return {
    words: words.join(' '), links: all('a[href]', 'href'), ids: all('[id]', 'id'),
    broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
    flat: [...document.querySelectorAll('math')].filter(m => !m.getBoundingClientRect().height || m.querySelector('merror')).length,
    equations: document.querySelectorAll('math').length,
    wide: [...document.querySelectorAll('main *')].filter(n => n.getBoundingClientRect().right > innerWidth + 1 && !n.closest('.scroll, pre, math'))
      .map(n => n.outerHTML.slice(0, 120)), overflow: document.documentElement.scrollWidth - innerWidth };
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The folder of a site made afresh."
    sys.path.insert(0, str(ROOT / "tools"))
    import docs

    out = tmp_path_factory.mktemp("site")
    docs.build(out)
    return out


@pytest.fixture(scope="module")
def address(site):
    "Where it is served."

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def visited(site, address):
    "(page, width) -> what a visitor finds there, and what the browser complained of."
    if not CHROMIUM:
        pytest.skip("no chromium here; Debian's package is called chromium, or name one with CHROMIUM=…")
    found = {}
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for kind, width in WIDTHS.items():
            tab, complaints = browser.new_page(viewport={"width": width, "height": 844}), []
            tab.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
            tab.on("pageerror", lambda e: complaints.append(str(e)))
            tab.on("requestfailed", lambda r: complaints.append(f"no answer from {r.url}"))
            tab.on("response", lambda r: complaints.append(f"{r.status} for {r.url}") if r.status >= 400 else None)
            tab.on(
                "request",
                lambda r: (
                    complaints.append(f"asked the internet for {r.url}")
                    if not r.url.startswith((address, "data:"))
                    else None
                ),
            )
            for path in sorted(site.glob("*.html")):
                complaints.clear()
                tab.goto(address + path.name)
                tab.evaluate(
                    "() => Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode().catch(() => 0); }))"
                )
                found[path.name, kind] = tab.evaluate(PAGE) | {"complaints": list(complaints)}
        browser.close()
    return found


def test_there_is_a_page_for_every_notebook_and_module(site):
    pages = {p.stem for p in site.glob("*.html")}
    assert {p.stem for p in (ROOT / "nbs").glob("*.ipynb")} <= pages
    assert {f"api_{p.stem}" for p in (ROOT / "kvae_nb").glob("[a-z]*.py")} <= pages


def test_the_browser_has_nothing_to_complain_of(visited):
    assert not {k: v["complaints"] for k, v in visited.items() if v["complaints"]}


def test_every_image_is_shown(visited):
    assert not {k: v["broken"] for k, v in visited.items() if v["broken"]}


def test_every_link_leads_somewhere(visited, address):
    ids = {address + name: set(v["ids"]) for (name, kind), v in visited.items() if kind == "desk"}
    lost = []
    for (name, kind), v in visited.items():
        for link in v["links"] if kind == "desk" else ():
            page, anchor = urldefrag(urljoin(address + name, link))
            if page.startswith(address) and (page not in ids or (anchor and not {anchor, unquote(anchor)} & ids[page])):
                lost.append(f"{name}: {link}")
    assert not lost


def test_every_equation_is_drawn(visited):
    raw = re.compile(r"\$[^$\s][^$]*\$|\\[a-zA-Z]{2,}")
    left = {k: raw.findall(v["words"])[:3] for k, v in visited.items() if raw.search(v["words"])}
    assert not left and not {k: v["flat"] for k, v in visited.items() if v["flat"]}
    assert sum(v["equations"] for (_, kind), v in visited.items() if kind == "desk") > 1000


def test_nothing_is_wider_than_a_telephone(visited):
    assert not {k[0]: v["wide"] for k, v in visited.items() if k[1] == "telephone" and (v["overflow"] > 0 or v["wide"])}
