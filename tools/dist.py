#!/usr/bin/env python3
"""Wheel and sdist into a folder (`dist` if none is named), which is emptied before, from a copy of what git keeps."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LISTING = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]


def kept(root=ROOT):
    "The names of the files that git keeps or would keep. Raises `CalledProcessError` outside of a repository."
    done = subprocess.run(LISTING, cwd=root, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name and (root / name).is_file()]


def build(folder, root=ROOT):
    "Path of the sdist and of the wheel, which are all there is in the folder; made without network."
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir(parents=True)
    with tempfile.TemporaryDirectory() as copy:
        for name in kept(root):
            (place := Path(copy, name)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, place)
        for what in ("sdist", "wheel"):
            code = f"import setuptools.build_meta as b; b.build_{what}({str(Path(folder).resolve())!r})"
            done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"the {what} was not built:\n{done.stderr[-2000:]}")
            if left_out := re.findall(r"Package '(.*?)' is absent from the `packages`", done.stderr):
                raise RuntimeError(
                    f"setup.py does not name {', '.join(sorted({*left_out}))}, which a later setuptools may leave out"
                )
    return {"sdist": next(Path(folder).glob("*.tar.gz")), "wheel": next(Path(folder).glob("*.whl"))}


if __name__ == "__main__":
    for kind, path in build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist").items():
        print(f"{kind}: {path} ({path.stat().st_size / 1e6:.1f} MB)")
