"""What others get: the files of the package, its page, the workflows, and what nbdev and Colab make of the notebooks.

Installing wheel and sdist into empty environments takes minutes: tests/install.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ConfigParser(delimiters=["="])
CONFIG.read(ROOT / "settings.ini", encoding="utf-8")
URL = CONFIG["DEFAULT"]["git_url"]
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
STAYS = {"index", "89_house", "90_glossary"}  # nothing to try out, or the repository's own affairs
COLAB = "https://colab.research.google.com"


def tracked():
    "What git keeps, or would keep."
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not in a git repository")
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "Wheel and sdist, made without network from a copy of what git keeps."
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    for what in ("sdist", "wheel"):
        code = f"import setuptools.build_meta as b; b.build_{what}({str(dist)!r})"
        done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    return {"sdist": next(dist.glob("*.tar.gz")), "wheel": next(dist.glob("*.whl"))}


def test_the_sdist_has_everything_that_notebooks_and_tests_read(built):
    with tarfile.open(built["sdist"]) as file:
        inside = {name.partition("/")[2] for name in file.getnames()}
    assert {n for n in tracked() if not n.startswith(".")} <= inside


def test_the_wheel_has_the_library_its_types_and_its_weights_and_nothing_else(built):
    inside = set(zipfile.ZipFile(built["wheel"]).namelist())
    library = {n for n in tracked() if n.startswith("kvae_nb/")}
    assert library <= inside and {"kvae_nb/py.typed", "kvae_nb/weights/box.safetensors"} <= library
    assert not [n for n in inside - library if not n.startswith("kvae_nb-")]


def test_links_and_pictures_work_on_a_package_page(built):
    with zipfile.ZipFile(built["wheel"]) as file:
        name = next(n for n in file.namelist() if n.endswith("/METADATA"))
        page = message_from_bytes(file.read(name)).get_payload(decode=True).decode()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = lambda text: re.findall(r"\]\(([^)\s]+)\)", text)
    assert len(links(page)) == len(links(readme)) > 30
    for there, here in zip(links(page), links(readme)):
        if re.match(r"[a-z]+:|#", here):
            assert there == here
        else:
            kind = "raw" if Path(here).suffix in (".png", ".gif") else "blob"
            assert there == f"{URL}/{kind}/main/{here}" and (ROOT / here.partition("#")[0]).exists()
    code = lambda text: re.findall(r"^(?:~~~|```).*?^(?:~~~|```)$", text, re.M | re.S)
    assert code(page) == code(readme)


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda p: p.stem)
def test_a_workflow_runs_what_the_makefile_has_on_a_python_that_is_allowed(path):
    flow = yaml.safe_load(path.read_text(encoding="utf-8"))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    jobs = flow["jobs"].values()
    runs = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    assert runs and all(re.fullmatch(r"make [a-z-]+", run) and run[5:] in targets for run in runs)
    versions = {v for job in jobs for v in job.get("strategy", {}).get("matrix", {}).get("python", [])}
    versions |= {
        step["with"]["python-version"] for job in jobs for step in job["steps"] if "python-version" in str(step)
    }
    known = set(re.findall(r"Python :: (3\.\d+)", (ROOT / "setup.py").read_text(encoding="utf-8")))
    assert {v for text in versions if "matrix" not in text for v in text.split()} <= known
    assert flow["permissions"] == {"contents": "read"}


def test_only_a_tag_that_passed_every_check_is_published():
    tracked()  # the sdist has no workflows
    flow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))
    jobs, check = flow["jobs"], [step.get("run") for step in flow["jobs"]["check"]["steps"]]
    assert flow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads the key `on` as true
    assert {"make test", "make release-check", "make docs"} <= set(check)
    assert {name for name, job in jobs.items() if "permissions" in job} == {"publish", "site"}
    assert all(jobs[name]["needs"] == "check" for name in ("publish", "site"))


def test_the_version_is_the_same_everywhere():
    said = CONFIG["DEFAULT"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    package = (ROOT / "kvae_nb/__init__.py").read_text(encoding="utf-8")
    changes = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert citation["version"] == said and f'__version__ = "{said}"' in package
    released = next(title for title in changes if title != "Unreleased")
    assert released == f"{said} ({citation['date-released']})"
    for name in ("README.md", "nbs/index.ipynb"):
        assert set(re.findall(r"`kvae_nb (\d[\d.]*)`", (ROOT / name).read_text(encoding="utf-8"))) == {said}


def test_what_nbdev_writes_beside_the_notebooks_is_no_business_of_git():
    tracked()
    names = ["nbs/_quarto.yml", "nbs/nbdev.yml", "nbs/sidebar.yml", "_proc/a", "_docs/a"]
    found = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert found == names


QUARTO = """#!/bin/sh
echo "$*" >> "$(dirname "$0")/calls"
if [ "$1" = render ]; then mkdir -p _docs; case "$*" in *README*) echo "# From Quarto" > _docs/README.md;; esac; fi
"""


def test_nbdev_docs_readme_and_prepare_run_up_to_quarto(tmp_path):
    root, bin = tmp_path / "repository", tmp_path / "bin"
    shutil.copytree(ROOT / "kvae_nb", root / "kvae_nb", ignore=shutil.ignore_patterns("__pycache__", "weights"))
    shutil.copytree(ROOT / "experiments/results", root / "experiments/results")
    (root / "nbs").mkdir()
    bin.mkdir()
    for name in ("settings.ini", "README.md", "nbs/index.ipynb", "nbs/70_errors.ipynb"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "nbs/images", root / "nbs/images")
    (bin / "quarto").write_text(QUARTO)
    (bin / "quarto").chmod(0o755)
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    env |= {"PATH": f"{bin}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{env['PATH']}", "PYTHONPATH": str(root)}
    for command in ("nbdev_docs --n_workers 1", "nbdev_readme", "nbdev_prepare"):
        (bin / "calls").write_text("")
        (root / "nbs/index.ipynb").touch()  # newer than README.md, so that nbdev has something to do
        done = subprocess.run(command.split(), cwd=root, env=env, capture_output=True, text=True)
        assert done.returncode == 0, command + "\n" + (done.stdout + done.stderr)[-3000:]
        assert "index.ipynb -o README.md -t gfm --no-execute" in (bin / "calls").read_text(), command
    assert (root / "README.md").read_text() == "# From Quarto\n"


def code(cell):
    return "".join(cell["source"])


def executed(source):
    "Whether nbdev's documentation step runs a cell that is not exported, because there is an import in it."
    if re.search(r"^#\|\s*(export|exporti|exports|exec_doc|default_exp)\b|^#\|\s*eval:\s*false", source, re.M):
        return False
    tree = ast.parse(re.sub(r"^[%!].*", "", source, flags=re.M))
    return any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.walk(tree))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_nbdev_and_colab_can_show_the_notebook(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    first = code(cells[0])
    assert re.fullmatch(r"# .+\n\n> .+", first), (
        "the first cell is a title and one sentence; nbdev drops the rest of it"
    )
    badge = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({COLAB}/github/{URL[19:]}/blob/main/nbs/{path.name})"
    setup = f"`!git clone -q {URL} && pip install -q ./kvae_nb` and `%cd kvae_nb/nbs`"
    line = f"{badge} There, run {setup} first."
    begins = re.sub(r'"?\./kvae_nb\[[a-z,]+\]"?', "./kvae_nb", code(cells[1]).split("\n")[0])  # with extras or without
    assert path.stem in STAYS or begins == line, f"the second cell begins with the line {line}"
    for k, cell in enumerate(cells):
        if cell["cell_type"] != "code":
            continue
        if executed(code(cell)):
            alone = all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(code(cell)).body)
            assert alone, f"cell {k} mixes imports with other code; nbdev would run it"
        if re.search(r"^#\|\s*hide\b", code(cell), re.M):
            after = "".join(code(c) for c in cells[k + 1 : k + 3] if c["cell_type"] == "markdown")
            drawn = any("image/png" in o.get("data", {}) for o in cell["outputs"])
            assert not (drawn and "*What to see:*" in after), (
                f"cell {k}: hidden with its figure; fold it (code-fold: true)"
            )
