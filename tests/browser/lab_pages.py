"""What the tests of notebooks in a browser share: a JupyterLab, its pages, and pictures that change."""

import hashlib
import json
import os
import shutil
import socket
import time
from pathlib import Path
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = float(os.environ.get("BROWSER_PATIENCE", 600))  # seconds; the machine may be busy


def copy_notebook(house, name):
    "Puts a notebook without its outputs into the folder."
    nb = json.loads((ROOT / "nbs" / name).read_text(encoding="utf-8"))
    nb["metadata"].pop("widgets", None)
    for cell in nb["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = []
    (house / "nbs").mkdir(exist_ok=True)
    (house / "nbs" / name).write_text(json.dumps(nb), encoding="utf-8")


def chromium():
    "The path of the system's Chromium."
    found = (
        os.environ.get("CHROMIUM")
        or shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    assert found, "there is no chromium; `make test-browser` as root installs it, or set CHROMIUM to the path of one"
    return found


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(house):
    "The variables with which the server runs: folders and settings of its own."
    chosen = {
        "notebook-extension/tracker": {"windowingMode": "none"},  # all cells are in the page, seen or not
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }
    for name, values in chosen.items():
        file = house / f"settings/@jupyterlab/{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    paths = {name: str(house / f".jupyter/{name}") for name in ("config", "runtime", "data")}
    return {k: v for k, v in os.environ.items() if k != "IN_TEST"} | {
        "JUPYTER_CONFIG_DIR": paths["config"],
        "JUPYTER_RUNTIME_DIR": paths["runtime"],
        "JUPYTER_DATA_DIR": paths["data"],
        "IPYTHONDIR": paths["config"],
        "JUPYTERLAB_SETTINGS_DIR": str(house / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(house / "workspaces"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    }


def answers(url):
    try:
        return urlopen(url, timeout=5).status == 200
    except OSError:
        return False


def wait_for(ready, alive=lambda: True, why=lambda: ""):
    "Returns when `ready()` says something true; fails with `why()` when it takes too long or nothing is alive."
    end = time.monotonic() + PATIENCE
    while not (found := ready()):
        assert alive() and time.monotonic() < end, f"waited for {PATIENCE:.0f} s in vain\n{why()}"
        time.sleep(0.3)
    return found


def kernel_is(page, status):
    return page.locator(f".jp-NotebookPanel .jp-Notebook-ExecutionIndicator[data-status='{status}']").count() > 0


def run_all(page):
    """Runs all cells. Asked before the kernel is connected, JupyterLab may ask which one in a dialog, and gets the one
    it proposes, or may silently do nothing, and is asked again. (A cell that waits for its turn shows [*] at once, so
    none is run twice.)"""
    accept = page.locator(".jp-Dialog .jp-mod-accept")
    agree = lambda *_: accept.evaluate_all(
        "buttons => buttons.forEach(b => b.click())"
    )  # several dialogs may wait in a row, so none is waited for
    page.add_locator_handler(accept, agree, no_wait_after=True)
    begun = lambda: any(t.strip("[]: ") for t in prompts(page))
    asked = float("-inf")

    def once_more():
        nonlocal asked
        agree()
        if not begun() and time.monotonic() > asked + 20:
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            asked = time.monotonic()
        return begun()

    wait_for(once_more, why=lambda: f"no cell has begun to run: {prompts(page)}")


def prompts(page):
    "What stands before each code cell: [5], [*] or [ ]."
    return page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()


def finished(page):
    return (texts := prompts(page)) and all(any(d.isdigit() for d in t) for t in texts)


def running(page):
    "Whether a cell runs or waits for its turn."
    return any("*" in t for t in prompts(page))


def restart(page):
    "Forgets what has been run."
    page.get_by_role("menuitem", name="Edit", exact=True).click()
    page.get_by_role("menuitem", name="Clear Outputs of All Cells", exact=True).click()
    wait_for(lambda: not any(t.strip("[]: ") for t in prompts(page)))


def errors(page):
    "Tracebacks in the page, and widgets that are not there."
    found = page.locator(
        "[data-mime-type='application/vnd.jupyter.error'], [data-mime-type='application/vnd.jupyter.stderr']"
    ).all_inner_texts()
    return [t for t in found if "Traceback" in t or "Error" in t] + page.get_by_text(
        "Error displaying widget"
    ).all_inner_texts()


def keep(shown, name, **how):
    "A picture of a page or of a part of it, where somebody asked for pictures."
    if folder := os.environ.get("BROWSER_PICTURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        shown.screenshot(path=str(Path(folder) / f"{name}.png"), **how)


def panel_of(page, call):
    "The cell that displays a panel, and whose code has this text."
    displays = page.locator(".jp-OutputArea .jupyter-widgets")
    return page.locator(".jp-CodeCell", has=page.locator(".jp-InputArea", has_text=call)).filter(has=displays).last


CUT = """cell => {
  const at = n => n.getBoundingClientRect(), area = at(cell.querySelector('.jp-OutputArea'));
  const parts = [...cell.querySelectorAll('.jp-OutputArea :is(img, label, button, .widget-readout, .noUi-target)')];
  const seen = parts.filter(n => at(n).width > 0), isTrack = n => n.classList.contains('noUi-target');
  const tracks = seen.filter(isTrack), texts = seen.filter(n => !isTrack(n)); // a handle may stand out of its track
  const name = n => `${n.tagName} ${n.className} ${n.textContent.slice(0, 40)}`;
  return seen.filter(n => at(n).right > Math.min(area.right, innerWidth) + 1 || at(n).left < area.left - 1)
    .map(n => `out of the page: ${name(n)}`)
    .concat(texts.filter(n => n.scrollWidth > n.clientWidth + 1).map(n => `cut: ${name(n)}`))
    .concat(tracks.filter(n => at(n).width < 60).map(n => `short: ${name(n)}`));
}"""


def cut(cell):
    "Pictures, labels, buttons and sliders of a panel that are out of the page, cut off, or too short to be moved."
    return cell.evaluate(CUT)


def picture(cell):
    "Hash of the PNG that the cell shows, and whether it has been drawn."
    image = cell.locator(".jp-OutputArea img").last
    return (
        hashlib.sha256(image.get_attribute("src").encode()).hexdigest()
        if image.evaluate("i => i.complete && i.naturalWidth > 100")
        else None
    )


GONE = ("not attached", "not visible", "detached")  # how Playwright says that an element left the page


def of_image(cell, ask):
    """What `ask` finds of the picture of the cell. A panel replaces its picture whenever it draws: where one went away,
    or was not laid out yet, while it was asked, the newer one is asked."""
    from playwright.sync_api import Error

    def asked():
        try:
            return ask(cell.locator(".jp-OutputArea img").last)
        except Error as error:
            if not any(gone in str(error) for gone in GONE):
                raise

    return wait_for(asked, why=lambda: "the picture was never there long enough")


def shot(cell):
    "The picture as the screen shows it."
    return of_image(cell, lambda image: image.screenshot())


def in_view(image):
    "Scrolls to the picture; its place in the window."
    image.scroll_into_view_if_needed()
    return image.bounding_box()


def changes(page, cell, act, name):
    "True once the picture of the cell is another one than before `act`."
    cell.scroll_into_view_if_needed()
    before = wait_for(lambda: picture(cell))
    of_image(cell, in_view)
    seen = shot(cell)
    act()
    wait_for(
        lambda: picture(cell) not in (None, before), lambda: True, lambda: f"the picture did not change: {errors(page)}"
    )
    keep(cell.locator(".jp-OutputArea-output, .jp-OutputArea").first, f"{name}_after")
    return shot(cell) != seen


def drag(page, cell, start, *way):
    "Presses the pointer on the picture of the cell and moves it; places are fractions from the lower left corner."
    wait_for(lambda: picture(cell))
    box = of_image(cell, in_view)
    at = lambda p: (box["x"] + p[0] * box["width"], box["y"] + (1 - p[1]) * box["height"])
    page.mouse.move(*at(start))
    page.mouse.down()
    for p in way:
        page.mouse.move(*at(p), steps=4)
    page.mouse.up()
