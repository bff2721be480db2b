"""What is published with a tag: complete files, a page that can be read, one version; run by `make release-check`."""

import os
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import dist
import pytest

ROOT = Path(__file__).resolve().parents[2]
bs4 = pytest.importorskip("bs4", reason="the packages of the extra dev are not installed")


@pytest.fixture(scope="module")
def metadata(built):
    "What the wheel says of itself."
    with zipfile.ZipFile(built["wheel"]) as file:
        name = next(n for n in file.namelist() if n.endswith(".dist-info/METADATA"))
        return message_from_bytes(file.read(name))


def test_twine_finds_nothing_to_complain_of(built):
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.values())], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout + done.stderr


def test_the_sdist_is_what_git_keeps_and_nothing_else(built):
    with tarfile.open(built["sdist"]) as file:
        inside = {m.name.partition("/")[2] for m in file.getmembers() if m.isfile()}
    wanted = {name for name in dist.kept() if not name.startswith(".")}
    assert wanted <= inside
    assert {n for n in inside - wanted if not n.startswith("kvae_nb.egg-info/")} == {"PKG-INFO", "setup.cfg"}


def test_the_readme_as_a_package_page_shows_it(metadata, settings):
    from readme_renderer import markdown

    page = markdown.render(metadata.get_payload(decode=True).decode())
    assert page, "the page cannot be rendered"
    shown = bs4.BeautifulSoup(page, "html.parser")
    assert shown.h1.get_text() == "kvae_nb" and len(shown.find_all("table")) >= 3 and len(shown.find_all("pre")) >= 5
    addresses = [t.get("href") or t.get("src") for t in shown.find_all(["a", "img"]) if t.get("href") or t.get("src")]
    assert len(addresses) > 100 and not [a for a in addresses if not a.startswith(("https://", "#"))]
    names = {f"#{t['id']}" for t in shown.find_all(id=True)}
    assert {a for a in addresses if a.startswith("#")} <= names, "a link to a heading that is not there"
    pictures = [img["src"] for img in shown.find_all("img")]
    assert len(pictures) >= 8 and all(img.get("alt") for img in shown.find_all("img"))
    ours = f"{settings['git_url']}/raw/{settings['branch']}/"
    assert all((ROOT / p.removeprefix(ours)).is_file() for p in pictures if p.startswith(ours))
    assert "](" not in "".join(t.get_text() for t in shown.find_all("p")), "a link is not shown as a link"


def test_a_tag_says_the_version(metadata, settings):
    assert metadata["Version"] == settings["version"]
    if os.environ.get("GITHUB_REF_TYPE") == "tag":
        assert os.environ["GITHUB_REF_NAME"] == f"v{settings['version']}"


def test_the_package_page_names_who_may_install_it(metadata, settings):
    assert metadata["Requires-Python"] == f">={settings['min_python']},<3.14"
    assert metadata["License-Expression"] == "MIT" or metadata["License"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown" and metadata["Summary"] == settings["description"]
    assert Path("LICENSE").name in metadata.get_all("License-File")
