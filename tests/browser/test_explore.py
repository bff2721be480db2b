"""The panels of notebook 55 in a real JupyterLab and a real browser: a slider is moved, and the picture must change.

Not collected by `pytest tests`; run by `make test-browser`. What is missing here is a failure, never a skip.
"""

import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
NOTEBOOK = "55_explore.ipynb"
PATIENCE = float(os.environ.get("BROWSER_PATIENCE", 600))  # seconds; the machine may be busy


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


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    "A copy of the notebook without its outputs, and what it reads; so that nothing of the repository is written to."
    root = tmp_path_factory.mktemp("house")
    for part in ("experiments/results", "benchmarks/results"):
        shutil.copytree(ROOT / part, root / part)
    nb = json.loads((ROOT / "nbs" / NOTEBOOK).read_text(encoding="utf-8"))
    nb["metadata"].pop("widgets", None)
    for cell in nb["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = []
    (root / "nbs").mkdir()
    (root / "nbs" / NOTEBOOK).write_text(json.dumps(nb), encoding="utf-8")
    return root


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
    }


@pytest.fixture(scope="module")
def lab(house):
    "The address of a JupyterLab of this environment that serves the copy on 127.0.0.1, behind a token."
    port, token = free_port(), secrets.token_hex(16)
    env = environment(house)
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={house}",
    ]
    with open(house / "lab.log", "w+") as log:
        server = subprocess.Popen(
            command, env=env, cwd=house, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            wait_for(
                lambda: answers(f"http://127.0.0.1:{port}/api?token={token}"),
                lambda: server.poll() is None,
                lambda: (house / "lab.log").read_text(),
            )
            yield f"http://127.0.0.1:{port}/lab/tree/nbs/{NOTEBOOK}?token={token}&reset"
        finally:  # the server, and kernels that it has left
            for end in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(server.pid, end)
                    server.wait(20)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    pass


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


@pytest.fixture(scope="module")
def page(lab):
    "The notebook in the browser, all cells run."
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("playwright is not installed; `make test-browser` installs it", pytrace=False)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=["--disable-dev-shm-usage", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(lab)
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        wait_for(lambda: kernel_is(page, "idle"))
        try:
            run_all(page)
            wait_for(lambda: finished(page), lambda: not errors(page), lambda: f"{errors(page)}\n{prompts(page)}")
            yield page
        finally:
            keep(page, "last")
            browser.close()


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


def errors(page):
    "Tracebacks in the page, and widgets that are not there."
    found = page.locator(
        "[data-mime-type='application/vnd.jupyter.error'], [data-mime-type='application/vnd.jupyter.stderr']"
    ).all_inner_texts()
    return [t for t in found if "Traceback" in t or "Error" in t] + page.get_by_text(
        "Error displaying widget"
    ).all_inner_texts()


def keep(page, name):
    "A picture of the page, where somebody asked for pictures."
    if folder := os.environ.get("BROWSER_PICTURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def panel_with(page, function):
    "The cell that calls `panel` with this drawing function."
    return (
        page.locator(".jp-CodeCell", has=page.locator(".jp-InputArea", has_text="panel("))
        .filter(has_text=f"{function}(")
        .last
    )


def picture(cell):
    "Hash of the PNG that the cell shows, and whether it has been drawn."
    image = cell.locator(".jp-OutputArea img").last
    return (
        hashlib.sha256(image.get_attribute("src").encode()).hexdigest()
        if image.evaluate("i => i.complete && i.naturalWidth > 100")
        else None
    )


def shot(cell):
    "The picture as the screen shows it; taken again if a newer one replaced it meanwhile."
    from playwright.sync_api import Error

    def taken():
        try:
            return cell.locator(".jp-OutputArea img").last.screenshot()
        except Error as error:
            if "not attached" not in str(error):
                raise

    return wait_for(taken)


def changes(page, cell, act, name):
    "True once the picture of the cell is another one than before `act`."
    cell.scroll_into_view_if_needed()
    before = wait_for(lambda: picture(cell))
    cell.locator(".jp-OutputArea img").last.scroll_into_view_if_needed()
    seen = shot(cell)
    keep(page, f"{name}_before")
    act()
    wait_for(
        lambda: picture(cell) not in (None, before), lambda: True, lambda: f"the picture did not change: {errors(page)}"
    )
    keep(page, f"{name}_after")
    return shot(cell) != seen


SLIDERS = {
    "draw_point": 0,
    "draw_tracking": 1,
    "draw_imputed": 0,
    "draw_regimes": 0,
    "draw_dreams": 0,
    "draw_collapse": 0,
}  # function → which of its sliders


def test_the_notebook_ran_without_an_error(page):
    assert not errors(page)
    assert page.locator(".jp-OutputArea .widget-vbox, .jp-OutputArea .widget-hbox").count() >= 6


@pytest.mark.parametrize("function", SLIDERS)
def test_a_slider_moved_with_the_keyboard_changes_the_picture(page, function):
    cell = panel_with(page, function)
    handle = cell.locator(".noUi-handle").nth(SLIDERS[function])
    key = "ArrowLeft" if function in ("draw_collapse", "draw_point", "draw_imputed") else "ArrowRight"

    def move():
        handle.focus()
        for _ in range(3):
            page.keyboard.press(key)

    assert changes(page, cell, move, function)


def test_hiding_a_frame_by_a_click_changes_the_picture(page):
    cell = panel_with(page, "draw_imputed")
    assert changes(page, cell, lambda: cell.locator("button.widget-toggle-button").nth(15).click(), "draw_imputed")


def test_the_particles_can_be_switched_off(page):
    cell = panel_with(page, "draw_imputed")
    handle = cell.locator(".noUi-handle").first

    def home():
        handle.focus()
        page.keyboard.press("Home")

    assert changes(page, cell, home, "draw_imputed_plugged_in")


@pytest.mark.parametrize("function, button", [("draw_collapse", "annealed"), ("draw_regimes", "2")])
def test_choosing_another_schedule_or_film_changes_the_picture(page, function, button):
    cell = panel_with(page, function)
    assert changes(
        page, cell, lambda: cell.locator("button.widget-toggle-button", has_text=button).click(), f"{function}_{button}"
    )


def test_no_error_has_appeared_since(page):
    assert not errors(page)
