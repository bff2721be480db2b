"""The files that are tried: those in the folder $DIST, or, if none is named, new ones in a temporary folder."""

import os
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import dist

CONFIG = ConfigParser(delimiters=["="])
CONFIG.read(ROOT / "settings.ini", encoding="utf-8")


@pytest.fixture(scope="session")
def settings():
    "What settings.ini says."
    return CONFIG["DEFAULT"]


@pytest.fixture(scope="session")
def built(tmp_path_factory, settings):
    "Sdist and wheel of this version, and nothing else beside them."
    folder = Path(os.environ["DIST"]).resolve() if "DIST" in os.environ else tmp_path_factory.mktemp("dist")
    if "DIST" not in os.environ:
        dist.build(folder)
    name = f"kvae_nb-{settings['version']}"
    files = {"sdist": folder / f"{name}.tar.gz", "wheel": folder / f"{name}-py3-none-any.whl"}
    assert sorted(folder.iterdir()) == sorted(files.values())
    return files
