"""The package as people get it: wheel and sdist, each installed into an empty environment, far from the repository.

    make test-install        (or: pytest tests/install/test_install.py)

`pytest tests` leaves this out, because it installs PyTorch once for every environment. The interpreter that runs the
tests must do; every other one that kvae_nb allows is tried too where it is there. The first lines of the output have a
line for each, also for those that are not there and of which nothing is claimed; for a tag they all have to be there.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = re.findall(r"Python :: (3\.\d+)", (ROOT / "setup.py").read_text(encoding="utf-8"))
ENV = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "IN_TEST")} | {
    "OMP_NUM_THREADS": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def run(*command, cwd=None, timeout=3600):
    "What a command answers, away from the repository's modules."
    return subprocess.run([str(c) for c in command], cwd=cwd, env=ENV, text=True, capture_output=True, timeout=timeout)


def must(*command, cwd=None):
    "The same, for a command that has to succeed."
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, " ".join(map(str, command)) + "\n" + (done.stdout + done.stderr)[-4000:]
    return done.stdout


HERE = Path(getattr(sys, "_base_executable", sys.executable))


def interpreter(version: str) -> Path | None:
    "An interpreter of this version that can make environments; nothing if there is none."
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        return HERE
    places = [shutil.which(f"python{version}"), *(Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python")]
    code = f"import ensurepip, sys, venv; assert sys.version.startswith('{version}.')"
    return next((Path(p) for p in places if p and run(p, "-c", code).returncode == 0), None)


FOUND = {version: interpreter(version) for version in ALLOWED}
WANTED = [(version, python, "wheel") for version, python in FOUND.items() if python]
WANTED += [(version, python, "sdist") for version, python in FOUND.items() if python == HERE]


@pytest.fixture(scope="session", autouse=True)
def said(request):
    "What is tested and what is not, in the output of every run."
    lines = [f"Python {v}: {p or 'NOT TRIED, there is no such interpreter here'}" for v, p in FOUND.items()]
    lines.append(f"Newer than {ALLOWED[-1]}: NOT TRIED, kvae_nb does not allow it")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + "\n".join(lines), flush=True)


def test_for_a_tag_every_interpreter_is_there():
    missing = [v for v, p in FOUND.items() if p is None]
    assert HERE in FOUND.values() and not (missing and os.environ.get("GITHUB_REF_TYPE") == "tag"), missing


@pytest.fixture(scope="session", params=WANTED, ids=lambda w: f"python{w[0]}-{w[2]}")
def place(request, built, tmp_path_factory):
    "An environment with nothing but the package and what it asks for; the programs in it."
    _, python, kind = request.param
    folder = tmp_path_factory.mktemp("environment")
    must(python, "-m", "venv", folder)
    bin = folder / ("Scripts" if os.name == "nt" else "bin")
    pip = (bin / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt")
    if kind == "sdist":
        must(*pip, "setuptools", "wheel", cwd=folder)
        must(*pip, "--no-build-isolation", built[kind], cwd=folder)
    else:
        must(*pip, built[kind], cwd=folder)
    yield bin
    shutil.rmtree(folder)  # several gigabytes


def test_what_is_in_the_files(built):
    inside = zipfile.ZipFile(built["wheel"]).namelist()
    outside = [n.partition("/")[2] for n in tarfile.open(built["sdist"]).getnames()]
    for name in ("kvae_nb/app/command.py", "kvae_nb/weights/box.safetensors", "kvae_nb/samples/box.npz"):
        assert name in inside and name in outside, name
    assert not [n for n in inside if not n.startswith(("kvae_nb/", "kvae_nb-"))]
    for name in ("settings.ini", "constraints.txt", "README.md", "LICENSE", "nbs/07_kvae.ipynb"):
        assert name in outside, name
    assert sum(p.stat().st_size for p in (ROOT / "kvae_nb" / "samples").iterdir()) < 200_000


def test_it_is_the_installed_package_that_runs(place, tmp_path, settings):
    code = "import kvae_nb, sys; print(kvae_nb.__version__, kvae_nb.__file__)"
    version, file = must(place / "python", "-c", code, cwd=tmp_path).split()
    assert version == settings["version"] and Path(file).is_relative_to(place.parent)
    must(place / "python", "-m", "pip", "check", cwd=tmp_path)


def test_every_module_can_be_imported(place, tmp_path):
    """So nothing that only developers have is needed; what is for a GPU asks for triton, which comes with PyTorch
    where there is one.
    """
    paths = sorted(p.relative_to(ROOT).with_suffix("") for p in (ROOT / "kvae_nb").rglob("[!_]*.py"))
    names = [".".join(p.parts) for p in paths if not p.name.startswith("gpu_")]
    assert len(names) > 90
    must(
        place / "python",
        "-c",
        "import importlib, sys\nfor n in sys.argv[1:]: importlib.import_module(n)",
        *names,
        cwd=tmp_path,
    )


def test_help(place, tmp_path):
    text = must(place / "kvae", "--help", cwd=tmp_path)
    assert "kvae VERB" in text
    for verb in ("simulate", "train", "evaluate", "impute", "generate", "board"):
        assert verb in text and f"kvae {verb}" in must(place / "kvae", verb, "--help", cwd=tmp_path)


def test_hidden_frames_are_filled_in(place, tmp_path):
    must(place / "kvae", "impute", "box", "--data", "sample", "--gap", "4:12", "--out", "filled.npz", cwd=tmp_path)
    with np.load(tmp_path / "filled.npz") as found:
        arrays = {k: found[k] for k in found.files}
    assert all(np.isfinite(v).all() for v in arrays.values())
    hidden, true = ~arrays["mask"], arrays["true"] / 255
    assert hidden.sum() == 8 * len(hidden)
    error, held = np.abs(arrays["smoothed"] - true)[hidden].mean(), np.abs(true[:, 3:4] - true)[hidden].mean()
    assert error < held / 2, (error, held)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["filled.npz", "filled.png"]


def test_films_are_generated_by_packaged_weights(place, tmp_path):
    must(place / "kvae", "generate", "box", "--steps", "6", "--count", "2", "--out", "dreams", cwd=tmp_path)
    arrays = [p for p in (tmp_path / "dreams").iterdir() if p.suffix == ".npz"]
    with np.load(arrays[0]) as found:
        shapes = [found[k].shape[:2] for k in found.files if found[k].ndim >= 4]
        assert (2, 6) in shapes and all(np.isfinite(found[k]).all() for k in found.files)


def test_a_model_can_be_trained(place, tmp_path):
    must(
        place / "kvae",
        "train",
        "--preset",
        "demo",
        "--data.sequences",
        "40",
        "--data.size",
        "16",
        "--train.epochs",
        "1",
        "--train.batch_size",
        "8",
        cwd=tmp_path,
    )
    must(place / "kvae", "impute", "--gap", "4:8", "--checkpoint", "last", "--out", "filled.npz", cwd=tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        "fly",
        "impute box --gap 4:12",
        "impute nosuch --gap 4:12 --out a.npz",
        "impute box --data nosuch.npz --gap 4:12 --out a.npz",
        "impute box --data sample --gap 9:4 --out a.npz",
        "train --preset nosuch",
        "simulate --world nosuch --out a.npz",
        "train --train.epochs many",
    ],
    ids=str,
)
def test_wrong_input_ends_with_one_sentence_and_exit_code_2(place, tmp_path, words):
    done = run(place / "kvae", *words.split(), cwd=tmp_path)
    assert done.returncode == 2, done
    assert (
        done.stderr.startswith("kvae: ") and "Traceback" not in done.stderr and done.stderr.strip().count("\n") == 0
    ), done.stderr
    assert not [*tmp_path.iterdir()]
