"""One JupyterLab for all tests of notebooks in a browser, and a page with the notebook that a test module names."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from urllib.request import Request, urlopen

import pytest
from lab_pages import (
    PATIENCE,
    ROOT,
    answers,
    chromium,
    copy_notebook,
    environment,
    errors,
    finished,
    free_port,
    keep,
    kernel_is,
    prompts,
    restart,
    run_all,
    running,
    wait_for,
)


@pytest.fixture(scope="session")
def house(tmp_path_factory):
    "A folder with what notebooks read, so that nothing of the repository is written to."
    root = tmp_path_factory.mktemp("house")
    for part in ("experiments/results", "benchmarks/results"):
        shutil.copytree(ROOT / part, root / part)
    return root


@pytest.fixture(scope="session")
def lab(house):
    "Address and token of a JupyterLab of this environment that serves the folder on 127.0.0.1."
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
            yield f"http://127.0.0.1:{port}", token
        finally:  # the server, and kernels that it has left
            for end in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(server.pid, end)
                    server.wait(20)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    pass


@pytest.fixture(scope="session")
def browser():
    "Headless Chromium."
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("playwright is not installed; `make test-browser` installs it", pytrace=False)
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=chromium(), args=["--disable-dev-shm-usage", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def page(lab, house, browser, request):
    "The notebook of the parameter, or the module's NOTEBOOK, in the browser, all cells run; its kernel ends with it."
    (address, token), name = lab, getattr(request, "param", None) or request.module.NOTEBOOK
    copy_notebook(house, name)
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(f"{address}/lab/tree/nbs/{name}?token={token}&reset")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    wait_for(lambda: kernel_is(page, "idle"))
    try:
        for _ in range(3):
            run_all(page)
            wait_for(lambda: not running(page), why=lambda: f"{prompts(page)}")
            if finished(page):
                break
            restart(
                page
            )  # the kernel was replaced under the first cells; JupyterLab does that when it is slow to start
        assert finished(page) and not errors(page), f"{errors(page)}\n{prompts(page)}"
        yield page
    finally:
        keep(page, f"last_{name}")
        page.close()
        end_kernels(address, token)


@pytest.fixture(params=[1280, 390])
def wide(page, request):
    "The page as wide as on a desk and on a telephone, without the side bar."
    page.set_viewport_size({"width": request.param, "height": 900})
    if page.locator("#jp-left-stack:visible").count():
        page.keyboard.press("Control+b")
    return page


def end_kernels(address, token):
    "Ends the kernels of all pages that were open."
    head = {"Authorization": f"token {token}"}
    for kernel in json.load(urlopen(Request(f"{address}/api/kernels", headers=head), timeout=60)):
        urlopen(Request(f"{address}/api/kernels/{kernel['id']}", headers=head, method="DELETE"), timeout=60)
