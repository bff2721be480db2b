"""The package as people get it: wheel and sdist, each installed into an empty environment, far from the repository.

    make test-install        (or: pytest tests/install/test_install.py)

`pytest tests` leaves this out, because it installs PyTorch once for every environment. The interpreter that runs the
tests must do; the newest one that kvae_nb allows is tried too where it is there. Where it is not, the first lines of
the output say so, and nothing is claimed.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
NEWEST = "3.13"
CONFIG = ConfigParser(delimiters=["="])
CONFIG.read(ROOT / "settings.ini", encoding="utf-8")
VERSION = CONFIG["DEFAULT"]["version"]
ENV = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "IN_TEST")} | {
    "OMP_NUM_THREADS": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def run(*command, cwd=None, timeout=1500):
    "What a command answers, away from the repository's modules."
    return subprocess.run([str(c) for c in command], cwd=cwd, env=ENV, text=True, capture_output=True, timeout=timeout)


def must(*command, cwd=None):
    "The same, for a command that has to succeed."
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, " ".join(map(str, command)) + "\n" + (done.stdout + done.stderr)[-4000:]
    return done.stdout


def newest_python() -> tuple[Path | None, str]:
    "An interpreter of the newest version that can be used here, and what is to be said about it."
    if sys.version_info[:2] == tuple(map(int, NEWEST.split("."))):
        return None, f"Python {NEWEST}: it is the one that runs these tests"
    places = [
        shutil.which(f"python{NEWEST}"),
        *sorted((Path.home() / ".pyenv" / "versions").glob(f"{NEWEST}.*/bin/python")),
    ]
    for place in filter(None, places):
        if run(place, "-c", f"import ensurepip, sys, venv; assert sys.version.startswith('{NEWEST}.')").returncode == 0:
            return Path(place), f"Python {NEWEST}: {place}"
    return None, f"Python {NEWEST}: NOT TESTED, there is no such interpreter here"


HERE = Path(getattr(sys, "_base_executable", sys.executable))
OTHER, SAID = newest_python()
WANTED = [(HERE, "wheel"), (HERE, "sdist"), *([(OTHER, "wheel")] if OTHER else [])]


@pytest.fixture(scope="session", autouse=True)
def said(request):
    "What is tested and what is not, in the output of every run."
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\nPython {sys.version.split()[0]}: {HERE}\n{SAID}", flush=True)


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    "Wheel and sdist, built from a copy of what git would give to others."
    source, dist = tmp_path_factory.mktemp("source") / "kvae_nb", tmp_path_factory.mktemp("dist")
    names = must("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    must(sys.executable, "-c", "import setuptools.build_meta as b, sys; b.build_sdist(sys.argv[1])", dist, cwd=source)
    must(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        dist,
        source,
    )
    return {"sdist": dist / f"kvae_nb-{VERSION}.tar.gz", "wheel": dist / f"kvae_nb-{VERSION}-py3-none-any.whl"}


@pytest.fixture(
    scope="session", params=WANTED, ids=lambda w: f"{w[0].name if w[0] == HERE else 'python' + NEWEST}-{w[1]}"
)
def place(request, built, tmp_path_factory):
    "An environment with nothing but the package and what it asks for; the programs in it."
    python, kind = request.param
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
    for name in ("kvae_nb/cli.py", "kvae_nb/weights/box.safetensors", "kvae_nb/samples/box.npz"):
        assert name in inside and name in outside, name
    assert not [n for n in inside if not n.startswith(("kvae_nb/", "kvae_nb-"))]
    for name in ("settings.ini", "constraints.txt", "README.md", "LICENSE", "nbs/07_kvae.ipynb"):
        assert name in outside, name
    assert sum(p.stat().st_size for p in (ROOT / "kvae_nb" / "samples").iterdir()) < 200_000


def test_it_is_the_installed_package_that_runs(place, tmp_path):
    code = "import kvae_nb, sys; print(kvae_nb.__version__, kvae_nb.__file__)"
    version, file = must(place / "python", "-c", code, cwd=tmp_path).split()
    assert version == VERSION and Path(file).is_relative_to(place.parent)
    must(place / "python", "-m", "pip", "check", cwd=tmp_path)


def test_every_module_can_be_imported(place, tmp_path):
    """So nothing that only developers have is needed; the GPU kernel asks for triton, which comes with PyTorch
    where there is a GPU.
    """
    names = sorted(
        p.stem for p in (ROOT / "kvae_nb").glob("*.py") if p.stem not in ("__init__", "_modidx", "gpu_kernel")
    )
    must(
        place / "python",
        "-c",
        "import importlib, sys\nfor n in sys.argv[1:]: importlib.import_module('kvae_nb.' + n)",
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
    assert [p.name for p in tmp_path.iterdir()] == ["filled.npz"]


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
