"""Packaging: everything is read from settings.ini, which nbdev reads too."""

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
lib = cfg["lib_name"]
DATA = {"weights": "*.safetensors", "weights.sequences": "*.safetensors", "samples": "*.npz"}  # folders without modules


def page(text):
    "The README for a package page, where relative links and pictures would lead nowhere: they lead to the repository."

    def address(m):
        kind = "raw" if m[1].endswith((".png", ".gif")) else "blob"
        return f"{cfg['git_url']}/{kind}/{cfg['branch']}/{m[1]}"

    return re.sub(r"(?<=\]\()(?![a-z]+:|[/#])([^)\s]+)", address, text)


setup(
    name=lib,
    version=cfg["version"],
    description=cfg["description"],
    long_description=page((here / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="MIT",
    license_files=["LICENSE"],
    url=cfg["git_url"],
    keywords=cfg["keywords"].split(),
    classifiers=[
        "Development Status :: 3 - Alpha",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    packages=[*find_packages(include=[lib, f"{lib}.*"]), *(f"{lib}.{folder}" for folder in DATA)],
    include_package_data=True,
    package_data={lib: ["py.typed"]} | {f"{lib}.{folder}": [files] for folder, files in DATA.items()},
    python_requires=f">={cfg['min_python']},<3.14",
    install_requires=cfg["requirements"].split(),
    extras_require={
        extra: cfg[f"{extra}_requirements"].split() for extra in ("dev", "browser", "play", "music", "release")
    },
    entry_points={"console_scripts": cfg["console_scripts"].split(), "nbdev": [f"{lib}={lib}._modidx:d"]},
    zip_safe=False,
)
