"""The tree is what the notebooks say: modules, README and outputs, each against a copy made afresh."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p.name for p in (ROOT / "nbs").glob("*.ipynb"))


def run(*command, cwd):
    "Run a tool of this environment; a failure shows what it printed."
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}  # under IN_TEST nbdev_export does nothing
    done = subprocess.run(
        [str(Path(sys.executable).parent / command[0]), *command[1:]], cwd=cwd, env=env, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    "A copy of the notebooks alone, cleaned and exported."
    root = tmp_path_factory.mktemp("fresh")
    shutil.copy(ROOT / "settings.ini", root)
    (root / "nbs").mkdir()
    for name in NOTEBOOKS:
        shutil.copy(ROOT / "nbs" / name, root / "nbs")
    for door in (ROOT / "kvae_nb").rglob("__init__.py"):  # written by hand
        there = root / door.relative_to(ROOT)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(door, there)
    run("nbdev_clean", cwd=root)
    run("nbdev_export", cwd=root)
    return root


def modules(root):
    return {p.relative_to(root).as_posix(): p.read_text(encoding="utf-8") for p in (root / "kvae_nb").rglob("*.py")}


def test_modules_are_what_the_notebooks_export(fresh):
    here, exported = modules(ROOT), modules(fresh)
    differing = sorted(n for n in here.keys() | exported.keys() if here.get(n) != exported.get(n))
    assert not differing, f"{', '.join(differing)}: not what the notebooks export; run `make export`"


def test_readme_is_what_the_index_says():
    run("python", "tools/readme.py", "--check", cwd=ROOT)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_is_clean(fresh, name):
    same = (ROOT / "nbs" / name).read_text(encoding="utf-8") == (fresh / "nbs" / name).read_text(encoding="utf-8")
    assert same, f"{name}: not as nbdev_clean leaves it; run `make export`"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_has_its_outputs_and_no_error(name):
    cells = json.loads((ROOT / "nbs" / name).read_text(encoding="utf-8"))["cells"]
    outputs = [o for c in cells if c["cell_type"] == "code" for o in c["outputs"]]
    errors = [o["ename"] for o in outputs if o["output_type"] == "error"]
    assert not errors, f"{name}: a stored traceback ({errors[0]})"
    assert outputs or all(c["cell_type"] != "code" for c in cells), f"{name}: stored without outputs; run it and save"


CHAPTERS = [n for n in NOTEBOOKS if n[0].isdigit()]


def test_the_index_names_every_chapter_once_in_the_order_of_reading():
    cells = json.loads((ROOT / "nbs/index.ipynb").read_text(encoding="utf-8"))["cells"]
    assert (
        re.findall(r"^\| \[\d\w* .*?\]\((\w+\.ipynb)\) \|", "\n".join("".join(c["source"]) for c in cells), re.M)
        == CHAPTERS
    )


@pytest.mark.parametrize("name", CHAPTERS)
def test_notebook_opens_and_closes_as_a_reader_needs(name):
    """What will be seen and how long it takes; what was learnt, exercises with hidden solutions, a caption under
    every figure, and the way back and on.
    """
    cells = json.loads((ROOT / "nbs" / name).read_text(encoding="utf-8"))["cells"]
    text = ["".join(c["source"]) for c in cells]
    prose = [t if c["cell_type"] == "markdown" else "" for c, t in zip(cells, text)]
    assert re.match(r"# .+\n\n> .+", prose[0]), "it begins with a title and one sentence"
    near, place = text[-1].splitlines()[-1], CHAPTERS.index(name)
    back, on = (["index.ipynb"] + CHAPTERS)[place], (CHAPTERS[1:] + ["index.ipynb"])[place]
    assert f"({back})" in near and "[contents](index.ipynb)" in near and f"({on})" in near, (
        f"its last line leads to {back}, to the contents and to {on}"
    )
    if name.startswith("90"):
        return  # for looking things up
    opening = "\n".join(itertools.takewhile(lambda t: not t.startswith("## "), filter(None, prose)))
    assert re.search(r"[Yy]ou will see", opening) and re.search(r"It runs in (about|a few) ", opening), (
        "it says what you will see and how long it runs"
    )
    whole = "\n".join(prose)
    assert "\n## What was learnt\n" in whole and re.search(
        r"\n## Exercises\n.*<details><summary>Solutions?</summary>\n\n.+</details>", whole, re.S
    )
    for k, cell in enumerate(cells):
        if any("image/png" in o.get("data", {}) for o in cell.get("outputs", [])):
            assert any("*What to see:*" in t for t in prose[k + 1 : k + 3]), f"cell {k}: no caption under the figure"


def test_one_version_everywhere():
    import kvae_nb

    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    assert kvae_nb.__version__ == config["DEFAULT"]["version"] == version("kvae_nb")


def test_shapes_are_checked_while_testing():
    import torch
    from jaxtyping import TypeCheckError

    from kvae_nb.core.gaussians import symmetrize

    with pytest.raises(TypeCheckError):
        symmetrize(torch.zeros(2, 3))
