#!/usr/bin/env python3
"""A site in _docs/: every notebook as it is stored (nothing is run), and a page for every module; made by Sphinx.

This script only prepares what Sphinx reads: it obeys nbdev's directives, takes the alternative text of a figure from
its caption, sorts the notebooks into parts by their numbers, leads links into the repository to where they lead, and
writes the signatures of the modules. A warning of Sphinx, such as a link that leads nowhere, stops the build.
"""

import ast
import posixpath
import re
import shutil
import sys
import tempfile
import tomllib
from configparser import ConfigParser
from copy import deepcopy
from html import unescape
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import nbformat
from sphinx.cmd.build import build_main

ROOT, HERE = Path(__file__).resolve().parent.parent, Path(__file__).resolve().parent
PARTS = {
    1: "The story",
    16: "Fast and safe inference",
    30: "Other models",
    32: "Sequences of anything",
    49: "Using it",
    60: "Results",
}
PARTS |= {70: "Workshop", 90: "To look things up"}  # the number of a part's first notebook -> its title
TEXTS = {"experiments/README.md": "experiments", "benchmarks/README.md": "benchmarks", "CHANGELOG.md": "changelog"}
PANELS = "panels"  # the page that moves, and what leads to it: notebook -> heading
MOVES = {"04_vae": "A-point-and-its-frame", "05_lgssm": "Filter-and-smoother-under-two-noises"}
DOOR = "- *To try it here, without a kernel:* [](/{}.md): drag a point and see its frame, turn the noises of a filter."
CODE = re.compile(r"(^(?:```|~~~).*?^(?:```|~~~)\s*$)", re.M | re.S)
LINK = re.compile(r"""(?<=\]\()(?![a-z]+:|[/#])([^)\s]+)""")
NAME = re.compile(r"(?<![\w\[`/])`([A-Za-z_]\w*(?:\.\w+)*)(\(\))?`(?![\w\]`])")
BADGE = re.compile(r"\[!\[([^\]]*)\]\([^)]*\)\](?=\()")  # a picture from elsewhere that is a link: its words stay
TAGGED = re.compile(
    r"\$\$((?:(?!\$\$).)*\\tag\{(?:(?!\$\$).)*)\$\$", re.S
)  # Sphinx would put it where no tag may stand
CONF = {
    "project": "kvae_nb",
    "html_title": "kvae_nb",
    "exclude_patterns": ["notebooks"],  # to download
    "extensions": ["myst_nb", "sphinx_copybutton"],
    "html_theme": "furo",
    "html_css_files": ["docs.css"],
    "html_js_files": ["docs.js"],
    "html_copy_source": False,
    "html_show_copyright": False,
    "html_show_search_summary": False,  # a page on a disk may not read another
    "html_use_index": False,
    "html_domain_indices": False,
    "mathjax_path": "tex-svg.js",
    "myst_enable_extensions": ["dollarmath", "amsmath"],
    "myst_heading_anchors": 4,
    "myst_heading_slug_func": "docs.slug",
    "nb_execution_mode": "off",
    "nb_ipywidgets_js": {},
    "nb_render_markdown_format": "myst",
    "suppress_warnings": ["myst.header"],
    "pygments_dark_style": "github-dark",
}


class Broken(Exception):
    "Something that has to be mended before there can be a site."


class Site(NamedTuple):
    "What a page has to know of the others."

    pages: dict  # path in the repository -> page
    names: dict  # exported name -> page and heading that describe it
    url: str  # of the repository


# Notebooks and texts


def rewritten(text, source, site):
    "Markdown of the file `source`, with links that lead to pages or into the repository, and names that are links."

    def link(m):
        target, mark, anchor = m[1].partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path in site.pages:
            return f"/{site.pages[path]}{mark}{anchor}"
        return m[1] if path.startswith("nbs/images/") or not (ROOT / path).exists() else f"{site.url}/blob/main/{path}"

    def name(m):
        return f"[{m[0]}]({site.names[m[1]]})" if m[1] in site.names else m[0]

    lines = lambda part: "\n".join(t if t.startswith("#") else NAME.sub(name, t) for t in part.split("\n"))
    numbered = lambda m: f"\n\\begin{{equation*}}\n{m[1].strip()}\n\\end{{equation*}}\n"
    plain = lambda part: lines(TAGGED.sub(numbered, LINK.sub(link, BADGE.sub(r"[\1]", part))))
    return "".join(part if part.startswith(("```", "~~~")) else plain(part) for part in CODE.split(text))


def caption(cells):
    "What is to be seen in the figure before these cells: the first sentences of its caption, as plain text."
    text = "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
    found = re.search(r"\*What to see:\*\s*(.+)", text)
    if not found:
        return "A figure without a caption"
    words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", found[1])
    words = re.sub(r"\\(?:math[a-z]+|text[a-z]*|operatorname)(?![a-z])", "", words)
    words = re.sub(r"\\([A-Za-z]+)", lambda m: unescape(f"&{m[1]};").strip("&;"), words)  # Greek letters and the like
    words = re.sub(r"[*`${}\\]", "", words).strip()
    short = re.match(r".{40,220}?[.:;](?=\s|$)|.{1,220}(?=\s|$)", words)[0]
    return (short[0].upper() + short[1:]).rstrip(":;")


def directives(cell):
    "nbdev's directives of a cell: name -> value."
    found = re.findall(r"^#\|\s*([\w-]+):?[ \t]*(.*)$", cell.source, re.M)
    return {name: value.strip() for name, value in found}


def prepared(path, site):
    "The notebook as Sphinx shows it: hidden cells gone, exported ones as they are written, figures with a text."
    nb, source = nbformat.read(path, as_version=4), path.relative_to(ROOT).as_posix()
    shown = []
    for k, cell in enumerate(nb.cells):
        said = directives(cell) if cell.cell_type == "code" else {}
        if said.keys() & {"hide", "default_exp"} or said.get("include") == "false":
            continue
        if cell.cell_type == "markdown":
            cell.source = rewritten(cell.source, source, site)
        else:
            fold = {("echo", "false"): "remove-input", ("code-fold", "true"): "hide-input"}
            cell.metadata.tags = [tag for directive, tag in fold.items() if directive in said.items()]
            cell.metadata.mystnb = {"image": {"alt": caption(nb.cells[k + 1 : k + 3])}}
            cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip()
            cell.outputs = [] if said.get("output") == "false" else [output(o, source, site) for o in cell.outputs]
        shown += apart(cell) if cell.cell_type == "code" else [cell]
    nb.cells = [c for c in shown if c.source or c.get("outputs")]
    nb.cells[0].source += f"\n\n{ways_on(path, source, site)}"
    nb.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return nb


def ways_on(path, source, site):
    "What stands below the title: the file, here and in the repository, and the panel that belongs to the notebook."
    moves = f" · [Move it](/{PANELS}.md#{MOVES[path.stem]})" if path.stem in MOVES else ""
    return (
        f"{{download}}`Download </notebooks/{path.name}>` · [In the repository]({site.url}/blob/main/{source}){moves}"
    )


def apart(cell):
    "The cell once for each picture that it draws, so that each has a text of its own; the code stands in the first."
    drawn = [k for k, out in enumerate(cell.outputs) if "image/png" in out.get("data", {})]
    if len(drawn) < 2:
        return [cell]
    cells, text = [], cell.metadata.mystnb["image"]["alt"]
    bounds = [0, *(k + 1 for k in drawn[:-1]), len(cell.outputs)]
    for n, (begin, end) in enumerate(pairwise(bounds)):
        part = deepcopy(cell)
        part.id, part.outputs = f"{cell.id}-{n}", part.outputs[begin:end]
        part.metadata.mystnb = {"image": {"alt": f"{text.rstrip('.')} (picture {n + 1} of {len(drawn)})"}}
        part.metadata.tags = ["remove-input"] if n else cell.metadata.tags
        cells.append(part)
    return cells


def output(out, source, site):
    "A stored output, without what needs a running kernel."
    data = out.get("data", {})
    if data.pop("application/vnd.jupyter.widget-view+json", None):
        data["text/plain"] = "Controls stand here when the notebook is run."
    if "text/markdown" in data:
        data["text/markdown"] = rewritten(data["text/markdown"], source, site)
    return out


# Modules


def exported(path):
    "The module's lines, its docstring, and what it exports: name -> node."
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    named = {n.name: n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    named |= {t.id: n for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    named |= {n.target.id: n for n in tree.body if isinstance(n, ast.AnnAssign)}
    names = [e.value for e in named["__all__"].value.elts] if "__all__" in named else []
    found = {n: named[n] for n in names if n in named}
    patched = {f"{owner(n)}.{n.name}": n for n in tree.body if isinstance(n, ast.FunctionDef) and owner(n)}
    return source.split("\n"), ast.get_docstring(tree) or "", found | patched


def owner(node):
    "The class that a function becomes a method of by `@patch`, or nothing."
    patched = any(ast.unparse(d).startswith("patch") for d in node.decorator_list)
    return ast.unparse(node.args.args[0].annotation) if patched else ""


def is_documented(node):
    return isinstance(node, ast.FunctionDef) and not node.name.startswith("_")


def signature(node, lines):
    "A definition as it is written, with its comments: a function without its body, a class with its fields, a value."
    if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        value = lines[node.lineno - 1 : node.end_lineno]
        return value if len(value) <= 20 else [*value[:20], "# …"]
    top = min(n.lineno for n in (node, *node.decorator_list))
    body = node.body[ast.get_docstring(node) is not None :]
    if isinstance(node, ast.FunctionDef):
        return lines[top - 1 : max(node.body[0].lineno - 1, node.lineno)]
    methods = [min(n.lineno for n in (m, *m.decorator_list)) for m in body if isinstance(m, ast.FunctionDef)]
    begin = body[0].lineno - 1 if body else node.end_lineno
    return lines[top - 1 : node.body[0].lineno - 1] + lines[begin : methods[0] - 1 if methods else node.end_lineno]


def described(name, node, lines, source, site, level="##"):
    "Heading, signature, a link to the source and docstring of a definition, then of the public methods."
    code = dedent("\n".join(signature(node, lines))).rstrip()
    is_class = isinstance(node, ast.ClassDef)
    says = ast.get_docstring(node) if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else ""
    parts = [f"{level} `{name}`", f"```python\n{code}\n```", rewritten(says or "", "nbs/", site)]
    parts.append(f"[source]({site.url}/blob/main/{source}#L{node.lineno})")
    for item in filter(is_documented, node.body if is_class else ()):
        parts.append(described(f"{name}.{item.name}", item, lines, source, site, level + "#"))
    return "\n\n".join(parts)


def module_page(path, site):
    "The page of a module."
    (lines, summary, found), source = exported(path), path.relative_to(ROOT).as_posix()
    book = re.search(r"File to edit: (\S+\.ipynb)", "\n".join(lines[:9]))
    shown = rewritten(f"Derived, tested and shown in [{Path(book[1]).stem}]({book[1]}).", source, site) if book else ""
    parts = [f"# `kvae_nb.{module(path)}`", rewritten(summary, "nbs/", site), shown]
    parts += [described(name, node, lines, source, site) for name, node in found.items()]
    return "\n\n".join(parts if found else [*parts, rewritten(gathered(lines), source, site)])


def gathered(lines):
    "What a module has that defines nothing itself: the names that it takes from the others."
    own = (n for n in ast.parse("\n".join(lines)).body if isinstance(n, ast.ImportFrom))
    names = [a.name for n in own if n.level or n.module.startswith("kvae_nb.") for a in n.names]
    return "It gathers " + ", ".join(f"`{name}`" for name in names) + "." if names else ""


def module(path):
    "The name of a module's file, counted from the package: inference.lgssm."
    return ".".join(path.relative_to(ROOT / "kvae_nb").with_suffix("").parts)


# The site


def toctree(title, rows):
    "A hidden table of contents: the group of this title in the sidebar."
    head = f":caption: {title}\n" if title else ""
    return "```{toctree}\n:hidden:\n" + head + "\n".join(rows) + "\n```\n"


def write_panels(src, site):
    "Writes the page of the panels, with what they draw from in it: a page on a disk may not read another."
    text = rewritten((ROOT / f"tools/{PANELS}.md").read_text(encoding="utf-8"), f"tools/{PANELS}.md", site)
    data = (ROOT / "nbs/images/panels.json").read_text(encoding="utf-8").strip()
    (src / f"{PANELS}.md").write_text(text.replace("{{data}}", data), encoding="utf-8")


def wings():
    "The sub-packages from the lowest to the highest: name -> files of its modules."
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = next(c["layers"] for c in config["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    names = [name.strip() for layer in reversed(layers) for name in layer.split("|")]
    return {w: sorted((ROOT / "kvae_nb" / w).glob("[!_]*.py")) for w in names}


def planned(books, modules):
    "What pages there will be, and where every exported name is described."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    names = {}
    for path in modules:
        for name in exported(path)[2]:
            where = f"/api/{module(path)}.md#{slug(name)}"
            names |= {f"kvae_nb.{module(path)}.{name}": where, f"{module(path)}.{name}": where}
            names.setdefault(f"{path.stem}.{name}", where)
            names.setdefault(name, where)
    pages = {f"nbs/{p.name}": p.name for p in books} | {name: f"{page}.md" for name, page in TEXTS.items()}
    return Site(pages, names, config["DEFAULT"]["git_url"])


def slug(heading):
    "The anchor of a heading, as JupyterLab makes it."
    return heading.strip().replace(" ", "-")


def write_api(src, site, house):
    "Writes the pages of modules and sub-packages, and returns the sidebar's group."
    (src / "api").mkdir()
    for path in (p for rows in house.values() for p in rows):
        (src / f"api/{module(path)}.md").write_text(module_page(path, site), encoding="utf-8")
    for wing, rows in house.items():
        says = ast.get_docstring(ast.parse((ROOT / "kvae_nb" / wing / "__init__.py").read_text(encoding="utf-8")))
        about = {p: rewritten(exported(p)[1], "nbs/", site) for p in rows}
        lines = [f"- [`{module(p)}`](/api/{module(p)}.md): {about[p]}" for p in rows]
        tree = toctree("", [f"{p.stem} </api/{module(p)}>" for p in rows])
        text = "\n".join([f"# `kvae_nb.{wing}`\n\n{says}\n", *lines, f"\n{tree}"])
        (src / f"api/{wing}.md").write_text(text, encoding="utf-8")
    return toctree("Library", [f"{wing} </api/{wing}>" for wing in house])


def sources(src, books=None, house=None):
    "Writes what Sphinx reads into the folder `src` and returns the number of pages; without more words, of everything."
    books = books or sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
    house = wings() if house is None else house
    site = planned([ROOT / "nbs/index.ipynb", *books], [p for rows in house.values() for p in rows])
    groups = {title: [] for title in PARTS.values()}
    groups[PARTS[1]].append(PANELS)
    write_panels(src, site)
    (src / "notebooks").mkdir()
    for path in (ROOT / "nbs/index.ipynb", *books):
        shutil.copy(path, src / "notebooks")
    for path in books:
        nb, number = prepared(path, site), int(path.name[:2])
        nbformat.write(nb, src / path.name)
        title = re.search(r"^# (.+)$", nb.cells[0].source, re.M)[1]
        groups[PARTS[max(first for first in PARTS if first <= number)]].append(f"{path.name[:2]} {title} <{path.stem}>")
    for name, page in TEXTS.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        (src / f"{page}.md").write_text(rewritten(text, name, site), encoding="utf-8")
        groups[PARTS[90]].append(page)
    shutil.copytree(ROOT / "nbs/images", src / "images")
    front = prepared(ROOT / "nbs/index.ipynb", site)
    trees = [toctree(title, rows) for title, rows in groups.items() if rows] + [write_api(src, site, house)]
    front.cells.insert(2, nbformat.v4.new_markdown_cell(DOOR.format(PANELS), id="door"))
    front.cells.append(nbformat.v4.new_markdown_cell("\n".join(trees), id="toctrees"))
    nbformat.write(front, src / "index.ipynb")
    return len(books) + len(TEXTS) + len(house) + sum(map(len, house.values())) + 2


def build(out=ROOT / "_docs", **which):
    "Writes the site and returns the number of its pages. Raises `Broken` if Sphinx has warned of something."
    mathjax = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax/tex-svg.js"
    ours = (HERE / "docs.css", HERE / "docs.js", HERE / "panels.js", ROOT / "nbs/images/latent_sheet.png")
    static = [str(p) for p in (*ours, mathjax)]
    with tempfile.TemporaryDirectory() as folder:
        src, html = Path(folder, "src"), Path(folder, "html")
        src.mkdir()
        number = sources(src, **which)
        conf = CONF | {"html_static_path": static}
        text = "".join(f"{name} = {value!r}\n" for name, value in conf.items())
        (src / "conf.py").write_text(text, encoding="utf-8")
        if build_main(["-q", "-W", "-b", "html", "-d", f"{folder}/doctrees", str(src), str(html)]):
            raise Broken("The site was not made: see above what has to be mended.")
        for name in (".buildinfo", "objects.inv"):
            (html / name).unlink()
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(html, out)
    return number


if __name__ == "__main__":
    try:
        print(f"{build()} pages in _docs; open _docs/index.html")
    except Broken as fault:
        sys.exit(str(fault))
