"""The site that `make docs` writes, visited page by page in a browser, on a desk and on a telephone."""

import re
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit
from urllib.request import url2pathname

import pytest
from lab_pages import ROOT

WIDTHS = {"desk": 1440, "telephone": 390}
PAGE = """() => {
  const article = document.querySelector('article'), words = [];
  const walk = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  const unread = n => n.parentElement.closest('code, pre, script, style, mjx-container');
  while (walk.nextNode()) if (!unread(walk.currentNode)) words.push(walk.currentNode.data);
  const all = (what, attribute) => [...document.querySelectorAll(what)].map(n => n[attribute]);
  const inBox = n => n.closest('pre, .math, .table-wrapper, mjx-container');
  const bar = document.querySelector('.sidebar-scroll'), here = bar.querySelector('.current-page > a');
  const at = n => n.getBoundingClientRect();
  return {
    words: words.join(' '), links: all('a[href]', 'href'), ids: all('[id]', 'id'),
    broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
    marked: document.querySelectorAll('.math').length,
    drawn: document.querySelectorAll('.math mjx-container svg').length,
    faulty: all('[data-mml-node="merror"]', 'textContent'),
    wide: [...article.querySelectorAll('*')].filter(n => at(n).right > innerWidth + 1 && !inBox(n))
      .map(n => n.outerHTML.slice(0, 120)),
    runsOut: [...article.querySelectorAll('pre')].filter(n => n.scrollWidth > n.clientWidth + 1)
      .map(n => n.textContent.slice(0, 80)),
    overflow: document.documentElement.scrollWidth - innerWidth,
    here: !here || (at(here).top >= at(bar).top && at(here).bottom <= at(bar).bottom) };
}"""
READY = "() => document.querySelectorAll('.math').length === document.querySelectorAll('.math mjx-container').length"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The folder of a site made afresh."
    sys.path.insert(0, str(ROOT / "tools"))
    import docs

    out = tmp_path_factory.mktemp("site") / "html"
    docs.build(out)
    return out


@pytest.fixture(scope="module")
def visited(site, browser):
    "(page, width) -> what a visitor finds there, read from the disk, and what the browser complained of."
    found = {}
    for kind, width in WIDTHS.items():
        tab, complaints = browser.new_page(viewport={"width": width, "height": 844}), []
        asked = lambda r: complaints.append(f"asked for {r.url}") if not r.url.startswith(("file:", "data:")) else None
        tab.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda e: complaints.append(str(e)))
        tab.on("requestfailed", lambda r: complaints.append(f"no answer from {r.url}"))
        tab.on("request", asked)
        for path in sorted(site.rglob("*.html")):
            complaints.clear()
            tab.goto(path.as_uri())
            tab.wait_for_function(READY)
            tab.evaluate("() => Promise.all([...document.images].map(i => i.decode().catch(() => 0)))")
            name = path.relative_to(site).as_posix()
            found[name, kind] = tab.evaluate(PAGE) | {"complaints": list(complaints)}
        tab.close()
    return found


def of(visited, fact, width=None):
    "The pages where there is something of this kind to complain of, and what."
    return {k: v[fact] for k, v in visited.items() if v[fact] and k[1] in (width or k[1])}


def test_there_is_a_page_for_every_notebook_and_module(site):
    pages = {p.relative_to(site).with_suffix("").as_posix() for p in site.rglob("*.html")}
    assert {p.stem for p in (ROOT / "nbs").glob("*.ipynb")} <= pages
    modules = (p.relative_to(ROOT / "kvae_nb").with_suffix("") for p in (ROOT / "kvae_nb").glob("*/[a-z]*.py"))
    assert {f"api/{'.'.join(m.parts)}" for m in modules} <= pages


def test_the_browser_has_nothing_to_complain_of(visited):
    assert not of(visited, "complaints")


def test_every_image_is_shown(visited):
    assert not of(visited, "broken")


def test_every_link_leads_somewhere(visited, site):
    ids = {(site / name).as_uri(): set(v["ids"]) for (name, kind), v in visited.items() if kind == "desk"}
    lost = []
    for (name, kind), v in visited.items():
        for link in v["links"] if kind == "desk" else ():
            page, anchor = urldefrag(link.partition("?")[0])
            if "/_downloads/" in page and Path(url2pathname(urlsplit(page).path)).is_file():
                continue  # a notebook to keep
            if page.startswith("file:") and (page not in ids or (anchor and not {anchor, unquote(anchor)} & ids[page])):
                lost.append(f"{name}: {link}")
    assert not lost


def test_every_equation_is_drawn(visited):
    raw = re.compile(r"\$[^$\s][^$]*\$|\\[a-zA-Z]{2,}")
    assert not {k: raw.findall(v["words"])[:3] for k, v in visited.items() if raw.search(v["words"])}
    assert not of(visited, "faulty") and not {k for k, v in visited.items() if v["marked"] > v["drawn"]}
    assert sum(v["drawn"] for (_, kind), v in visited.items() if kind == "desk") > 1000


def test_nothing_runs_out_of_the_page_or_its_box(visited):
    assert not of(visited, "runsOut") and not of(visited, "wide")
    assert not {k: v["overflow"] for k, v in visited.items() if v["overflow"] > 0}


def test_the_sidebar_shows_where_the_reader_is(visited):
    assert not [k for k, v in visited.items() if k[1] == "desk" and not v["here"]]


def test_the_search_finds_from_a_disk(site, browser):
    tab = browser.new_page()
    tab.goto((site / "index.html").as_uri())
    tab.fill(".sidebar-search", "gumbel noise")
    tab.keyboard.press("Enter")
    tab.wait_for_selector('#search-results li a[href*="10_chains.html"]')  # the list grows while the search goes on
    tab.close()
