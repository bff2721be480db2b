"""The two panels of the site, moved by pointer and by keyboard on a desk and on a telephone, read from the disk.

What the script computes is compared with the library: the filter and the smoother in float64, the frame with the model.
"""

import io
import json
import re
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from lab_pages import ROOT, keep
from PIL import Image

from kvae_nb import load_pretrained
from kvae_nb.inference.batched import loop_evidence, rts_smoother
from kvae_nb.inference.routes import kalman_filter

sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "experiments")]
import docs
import panels

WIDTHS = (1280, 390)
DATA = json.loads((ROOT / "nbs/images/panels.json").read_text("utf-8"))
SERIES = DATA["series"]
BOOKS = ("04_vae", "05_lgssm", "49_which_model")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "html"
    books = [ROOT / f"nbs/{name}.ipynb" for name in BOOKS]
    docs.build(out, books=books, house={"core": docs.wings()["core"]})
    return out


@pytest.fixture(params=WIDTHS)
def tab(request, browser):
    tab, complaints = browser.new_page(viewport={"width": request.param, "height": 844}), []
    tab.on("pageerror", lambda e: complaints.append(str(e)))
    tab.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    tab.on("requestfailed", lambda r: complaints.append(r.url))
    yield tab
    keep(tab, request.node.name, full_page=True)
    tab.close()
    assert not complaints


@pytest.fixture
def page(tab, site):
    "The page of the panels."
    tab.goto((site / "panels.html").as_uri())
    tab.wait_for_function("() => document.querySelector('#latent-panel img').complete")
    tab.evaluate("() => document.querySelector('#latent-panel img').decode()")
    return tab


def frame(tab):
    "The frame that is on the screen, as numbers between 0 and 1."
    canvas = tab.locator("#latent-panel canvas")
    shown = np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("L")) / 255
    at = (np.arange(32) + 0.5) * len(shown) / 32
    return shown[np.ix_(at.astype(int), at.astype(int))]


def point(tab):
    return tab.locator("#latent-panel input").evaluate_all("s => s.map(s => s.valueAsNumber)")


def mixed(a):
    "The frame of a point by the stored sheet: its four neighbours on the grid, mixed."
    sheet = np.asarray(Image.open(ROOT / "nbs/images/latent_sheet.png")) / 255
    n, low, high = (DATA["sheet"][k] for k in ("cells", "low", "high"))
    tiles = sheet.reshape(n, 32, n, 32).transpose(0, 2, 1, 3)[::-1]
    where = [(v - lo) / (hi - lo) * (n - 1) for v, lo, hi in zip(a, low, high)]
    i, j = (min(int(w), n - 2) for w in where)
    x, y = where[0] - i, where[1] - j
    rows = [(1 - x) * tiles[j + d, i] + x * tiles[j + d, i + 1] for d in (0, 1)]
    return (1 - y) * rows[0] + y * rows[1]


def close(tab):
    "Whether the frame on the screen is the one of the sliders' point, up to roundings of the four weighted levels."
    return np.abs(frame(tab) - mixed(point(tab))).max() <= 5 / 255


def test_a_point_is_dragged_and_its_frame_shown(page):
    assert close(page)
    plane = page.locator("#latent-panel > svg")
    plane.scroll_into_view_if_needed()
    box, before = plane.bounding_box(), frame(page)
    at = lambda x, y: (box["x"] + x * box["width"], box["y"] + (1 - y) * box["height"])
    page.mouse.move(*at(0.5, 0.5))
    page.mouse.down()
    page.mouse.move(*at(0.6, 0.42), steps=4)
    page.mouse.up()
    low, high = DATA["sheet"]["low"], DATA["sheet"]["high"]
    wanted = [lo + s * (hi - lo) for s, lo, hi in zip((0.6, 0.42), low, high)]
    assert np.abs(np.subtract(point(page), wanted)).max() < 0.04  # a pixel of the plane is .03
    assert close(page) and np.abs(frame(page) - before).max() > 0.5
    assert page.locator("#latent-panel output").inner_text() == "a = ({:.2f}, {:.2f})".format(*point(page))
    page.mouse.move(*at(0.1, 0.1))
    assert np.abs(np.subtract(point(page), wanted)).max() < 0.04, "the cross follows without being held"


def test_a_point_is_moved_by_keys(page):
    start = point(page)
    page.locator("#latent-panel > svg").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
    assert np.allclose(np.subtract(point(page), start), [0.2, 0.1], atol=0.011) and close(page)
    page.get_by_label("first number").focus()
    page.keyboard.press("End")
    page.get_by_label("second number").focus()
    page.keyboard.press("Home")
    assert point(page) == [DATA["sheet"]["high"][0], DATA["sheet"]["low"][1]] and close(page)


def test_frames_between_the_grid_are_those_of_the_model(page):
    model, wrong = load_pretrained(panels.WORLD).model, []
    for a in DATA["codes"][::100]:
        set_sliders(page, "#latent-panel", a[:2])
        with torch.no_grad():
            wanted = model.decode(torch.tensor([point(page)]))[0, 0].numpy()
        wrong.append(((frame(page) > 0.5) != (wanted > 0.5)).mean())
    assert np.mean(wrong) < 4 / 32**2 and (mixed(point(page)) > 0.5).sum() > 100


def set_sliders(tab, panel, values):
    code = "(s, v) => s.forEach((s, k) => { s.value = v[k]; s.dispatchEvent(new Event('input')); })"
    tab.locator(f"{panel} input").evaluate_all(code, values)


def exact(values):
    return torch.tensor(values, dtype=torch.float64)


def by_the_library(q, r):
    "Filter, smoother and evidence of the series under these noises."
    model, y = panels.tracking(q, r), exact([np.nan if v is None else v for v in SERIES["y"]])[:, None]
    mask, a = ~y.isnan()[:, 0], y.nan_to_num()
    filtered = kalman_filter(model, a, mask)
    return filtered, rts_smoother(model, filtered), loop_evidence(model, a, mask).item()


NOISES = [(0.1, 1.0), (1e-4, 1e3), (100.0, 1e-3), (1e-4, 1e-3), (100.0, 1e3), (0.37, 2.9)]


@pytest.mark.parametrize("q, r", NOISES)
def test_the_script_computes_what_the_library_computes(page, q, r):
    code = """([y, q, r, start]) => {
        const { steps, evidence } = panels.filter(y, q, r, start);
        return { steps, evidence, smooth: panels.smoother(steps) };
    }"""
    found = page.evaluate(code, [SERIES["y"], q, r, SERIES["start"]])
    filtered, smoothed, evidence = by_the_library(q, r)
    # Rounding errors of float64 grow with the condition of the predicted covariance, 1e5 at most here, over 40 steps.
    for steps, wanted in ((found["steps"], filtered), (found["smooth"], smoothed)):
        mean, cov = exact([s["mean"] for s in steps]), exact([s["cov"] for s in steps])
        whole = torch.stack([cov[:, :2], cov[:, 1:]], -2)
        torch.testing.assert_close(mean, wanted.mean, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(whole, wanted.cov, rtol=1e-8, atol=1e-8)
    assert found["evidence"] == pytest.approx(evidence, rel=1e-9)


def test_what_is_drawn_and_said_is_what_was_computed(page):
    page.get_by_role("button", name="The noises the series was made with").click()
    q, r = (10**v for v in page.locator("#noise-panel input").evaluate_all("s => s.map(s => s.valueAsNumber)"))
    *found, evidence = by_the_library(q, r)
    given = [v for v in SERIES["y"] if v is not None] + SERIES["truth"]
    low, high, steps = min(given) - 3, max(given) + 3, len(SERIES["y"])  # of the plot, 600 wide and 260 high
    at = lambda v: np.stack([10 + 580 * np.arange(steps) / (steps - 1), (high - np.asarray(v)) / (high - low) * 260], 1)
    path = lambda name: page.locator(f"#noise-panel svg path.{name}").get_attribute("d")
    points = lambda d: np.array([float(v) for v in re.findall(r"-?[\d.]+", d)]).reshape(-1, 2)
    wanted, errors = {"truth": at(SERIES["truth"])}, []
    for name, states in zip(("filter", "smoother"), found):
        mean, std = states.mean[:, 0].numpy(), states.cov[:, 0, 0].sqrt().numpy()
        wanted |= {name: at(mean), f"{name}-band": np.concatenate([at(mean + 1.96 * std), at(mean - 1.96 * std)[::-1]])}
        errors.append(np.sqrt(np.mean((mean - SERIES["truth"]) ** 2)))
    for name, places in wanted.items():
        assert np.abs(points(path(name)) - places).max() < 0.051, name  # one decimal
    said = [float(v) for v in re.findall(r"-?\d+\.\d+", page.locator("#noise-panel .panel-said").inner_text())]
    assert np.abs(np.subtract(said, [evidence, *errors])).max() < 0.051
    gap, seen = page.locator("#noise-panel rect.gap"), page.locator("#noise-panel svg path.seen")
    hidden = [at(SERIES["truth"])[t, 0] for t, v in enumerate(SERIES["y"]) if v is None]
    assert seen.count() == steps - len(hidden)
    assert float(gap.get_attribute("x")) == pytest.approx(hidden[0] - 290 / (steps - 1))
    assert float(gap.get_attribute("width")) == pytest.approx(580 * len(hidden) / (steps - 1))


def test_the_dots_are_the_codes(page):
    dots = page.locator("#latent-panel circle").evaluate_all(
        "c => c.map(n => [...['cx', 'cy'].map(k => +n.getAttribute(k)), n.getAttribute('fill')])"
    )
    (left, low), (right, high), codes = *(DATA["sheet"][k] for k in ("low", "high")), np.array(DATA["codes"])
    places = [200 * (codes[:, 0] - left) / (right - left), 200 * (high - codes[:, 1]) / (high - low)]
    np.testing.assert_allclose([d[:2] for d in dots], np.stack(places, 1), atol=1e-6)
    hue = lambda k: float(re.search(r"hsl\(([\d.]+)", dots[k][2])[1])
    assert hue(codes[:, 2].argmax()) == 40 and hue(codes[:, 2].argmin()) == 280  # yellow at the ceiling, violet below


def test_the_noises_are_turned(page):
    drawn = lambda: page.locator("#noise-panel path").evaluate_all("p => p.slice(0, 4).map(p => p.getAttribute('d'))")
    said = lambda: page.locator("#noise-panel .panel-said").inner_text()
    before, words = drawn(), said()
    page.get_by_label("Q, the pushes").focus()
    page.keyboard.press("ArrowRight")
    turned, after = drawn(), said()
    assert not set(before) & set(turned) and after != words
    page.get_by_role("button", name="The noises the series was made with").click()
    assert not set(turned) & set(drawn())
    q, r = page.locator("#noise-panel input").evaluate_all("s => s.map(s => 10 ** s.valueAsNumber)")
    assert (q, r) == (pytest.approx(SERIES["q"]), pytest.approx(SERIES["r"])) and "0.10" in page.locator(
        "#noise-panel label output"
    ).nth(0).inner_text()
    errors = [float(w.rstrip(".")) for w in said().replace(",", "").split() if w.rstrip(".").replace(".", "").isdigit()]
    assert errors[-1] < errors[-2], "the smoother knows more than the filter"


def test_every_control_has_a_name_and_nothing_is_too_wide(page):
    assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
    names = "s => s.map(n => n.ariaLabel || n.labels?.[0]?.textContent.trim() || n.textContent.trim())"
    assert all(page.locator("article .panel :is(input, button, svg, canvas)").evaluate_all(names))
    for part in ("#latent-panel > svg", "#latent-panel > canvas", "#noise-panel > svg"):
        box = page.locator(part).bounding_box()
        assert box["width"] > 180 and box["x"] >= 0 and box["x"] + box["width"] <= page.viewport_size["width"]


@pytest.fixture(scope="module")
def served(site):
    "The address of the site on 127.0.0.1."
    handler = partial(SimpleHTTPRequestHandler, directory=site)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("name", ["index", *BOOKS])
def test_a_notebook_is_downloaded_from_its_page(browser, site, served, name):
    "From a disk, where a browser shows the file instead, the link leads to the same file."
    tab, notebook = browser.new_page(), (ROOT / f"nbs/{name}.ipynb").read_bytes()
    tab.goto(f"{served}/{name}.html")
    link = tab.locator("article a.download").first
    with tab.expect_download() as found:
        link.click()
    assert found.value.suggested_filename == f"{name}.ipynb"
    assert Path(found.value.path()).read_bytes() == (site / link.get_attribute("href")).read_bytes() == notebook
    tab.close()


def test_the_front_leads_on_and_the_menu_can_be_reached(tab, site):
    tab.goto((site / "index.html").as_uri())
    assert tab.locator("article h2").first.inner_text().startswith("The story")
    for name in ("panels", "49_which_model"):
        assert tab.locator(f'article a[href="{name}.html"]').count()
    entry = tab.locator('.sidebar-tree a[href="panels.html"]').first
    if tab.viewport_size["width"] < 1000:
        assert entry.bounding_box()["x"] < 0
        tab.locator(".mobile-header label.nav-overlay-icon").click()
        tab.wait_for_function("() => document.querySelector('.sidebar-drawer').getBoundingClientRect().left >= 0")
    entry.click()
    tab.wait_for_url("**/panels.html*")


def test_dark_mode_is_a_click_away_and_colours_the_panels(page):
    colour = "n => getComputedStyle(n).stroke"
    truth, back = page.locator("#noise-panel path.truth"), "() => getComputedStyle(document.body).backgroundColor"
    seen = set()
    for _ in range(3):
        seen.add((truth.evaluate(colour), page.evaluate(back)))
        page.evaluate("() => [...document.querySelectorAll('.theme-toggle')].find(n => n.offsetParent).click()")
    assert len(seen) == 2 and all(line != ground for line, ground in seen)
