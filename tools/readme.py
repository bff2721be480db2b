#!/usr/bin/env python3
"""README.md from nbs/index.ipynb, through nbdev's own processors and nbconvert; `--check` only compares.

Images that cells have drawn become files nbs/images/index_*. Links relative to the notebook are rewritten, so that they
work from the repository's front page too.
"""

import argparse
import os
import posixpath
import re
import sys
from pathlib import Path

import nbformat
from execnb.nbio import nb2str
from nbconvert import MarkdownExporter
from nbdev.process import NBProcessor
from nbdev.processors import FilterDefaults

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = {
    "FrontmatterProc",
    "add_links",
    "insert_warning",
}  # no title lost, no links to a site that need not exist; the notice is ours:
NOTICE = "<!-- Made from nbs/index.ipynb by tools/readme.py. Edit the notebook, then run `make export`. -->\n\n"
LINK = re.compile(r"""(\]\(|\b(?:src|href)=["'])(?![a-z]+:|[/#])([^)"'\s]+)""")
FENCE = re.compile(r"(^```.*?^```)", re.M | re.S)


def processed(path):
    "The notebook at `path` after nbdev's processors: hidden and exported cells are gone, directives obeyed."
    processor = NBProcessor(path, procs=[p for p in FilterDefaults().base_procs() if p.__name__ not in SKIPPED])
    processor.process()
    nb = nbformat.reads(nb2str(processor.nb), as_version=4)
    nb.metadata.language_info = {"name": "python"}
    for cell in nb.cells:
        if cell.cell_type == "code":
            if re.search(r"^#\|\s*echo:\s*false", cell.source, re.M):
                cell.metadata.transient = {"remove_source": True}
            cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
    return nb


def rebased(markdown, folder):
    """`markdown` with every relative link, outside code, resolved against `folder`, and names of headings in small
    letters, as pages of repositories and packages have them; Jupyter keeps capitals.
    """

    def link(m):
        return m[1] + posixpath.normpath(posixpath.join(folder, m[2]))

    def outside_code(text):
        return re.sub(r"\]\(#[^)]+\)", lambda m: m[0].lower(), LINK.sub(link, text))

    return "".join(p if p.startswith("```") else outside_code(p) for p in FENCE.split(markdown))


def readme(root=ROOT):
    "What should be on disk: file -> bytes, for README.md and the images it takes from outputs."
    os.chdir(root)  # nbdev looks for settings.ini from the working directory up
    where = {"output_files_dir": "images", "unique_key": "index"}
    body, resources = MarkdownExporter().from_notebook_node(processed(root / "nbs/index.ipynb"), where)
    text = NOTICE + re.sub(r"\n(\s*\n)+", "\n\n", rebased(body, "nbs")).strip() + "\n"
    images = {root / "nbs" / name: data for name, data in resources.get("outputs", {}).items()}
    return {root / "README.md": text.encode(), **images}


def drift(files, root=ROOT):
    "Sentences, one for each file that is not as it should be."
    stale = set((root / "nbs/images").glob("index_*")) - set(files)
    changed = [p for p, data in files.items() if not p.exists() or p.read_bytes() != data]
    return [f"{p.relative_to(root)} is not what nbs/index.ipynb gives" for p in changed] + [
        f"{p.relative_to(root)} is no longer drawn by nbs/index.ipynb" for p in sorted(stale)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if anything would change")
    check = parser.parse_args().check
    if not (ROOT / "nbs/index.ipynb").exists():
        sys.exit("There is no nbs/index.ipynb to make README.md from.")
    files = readme()
    found = drift(files)
    if check:
        sys.exit("; ".join(found) + ": run `make export`." if found else 0)
    for path in set((ROOT / "nbs/images").glob("index_*")) - set(files):
        path.unlink()
    for path, data in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    print("\n".join(found) or "README.md is as it should be.")


if __name__ == "__main__":
    main()
