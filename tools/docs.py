#!/usr/bin/env python3
"""A static site in _docs/: every notebook as it is stored (nothing is run), and a page for every module.

Equations become MathML, which browsers draw themselves, so the pages work from a disk and without a script. What cannot
be done faithfully stops the build: an equation with an unknown command, a link into the repository that leads nowhere.
"""

import ast
import base64
import io
import posixpath
import re
import shutil
import sys
import tokenize
from configparser import ConfigParser
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import nbformat
from jinja2 import Template
from mathml import Broken, equation
from nbconvert.filters import ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

ROOT, HERE = Path(__file__).resolve().parent.parent, Path(__file__).resolve().parent
TEXTS = {"experiments/README.md": "experiments", "benchmarks/README.md": "benchmarks", "CHANGELOG.md": "changelog"}


# Markdown


class Site(NamedTuple):
    "What a page has to know of the others."

    pages: dict  # path in the repository -> name of its page
    names: dict  # exported name -> where it is described
    url: str  # of the repository
    images: dict  # path in the repository -> path in the site


class Renderer(IPythonRenderer):
    "Markdown as the notebooks use it; links, images and equations as the site has them."

    def __init__(self, site, source):
        super().__init__(escape=False, anchor_link_text="#")
        self.site, self.source = site, source

    def resolved(self, url):
        "Where a link leads. Raises `Broken` if the repository has no such file."
        if re.match(r"[a-z]+:|#", url):
            return url
        target, mark, anchor = url.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(self.source), target))
        if path in self.site.pages:
            return f"{self.site.pages[path]}.html{mark}{anchor}"
        if not (ROOT / path).exists():
            raise Broken(f"a link to {url}, which is not there")
        if Path(path).suffix in (".png", ".gif", ".svg", ".jpg"):
            return self.site.images.setdefault(path, "images/" + path.replace("/", "_"))
        return f"{self.site.url}/blob/main/{path}"

    def link(self, text, url, title=None):
        return super().link(text, self.resolved(url), title)

    def image(self, text, url, title=None):
        return super().image(text, self.resolved(url), title)

    def codespan(self, text):
        where = self.site.names.get(text.removesuffix("()"))
        code = super().codespan(text)
        return f'<a class="name" href="{where}">{code}</a>' if where else code

    def table(self, text):
        return f'<div class="scroll"><table>{text}</table></div>'

    def block_math(self, body):
        return equation(body, block=True)

    def latex_environment(self, name, body):
        return equation(rf"\begin{{{name}}}{body}\end{{{name}}}", block=True)

    def inline_math(self, body):
        return equation(body)


def markdown(text, site, source):
    "The text as HTML; an equation that stands for itself is no part of a paragraph."
    html = MarkdownWithMath(renderer=Renderer(site, source)).render(text)
    return re.sub(
        r'<p>\s*((?:<div class="equation">.*?</math></div>(?:<span class="tag">[^<]*</span>)?</div>\s*)+)</p>',
        r"\1",
        html,
        flags=re.S,
    )


def python(code):
    return highlight(code, PythonLexer(), HtmlFormatter())


# Notebooks


def output(out, site, source, figure):
    "A stored output as HTML; `figure` stores a picture and returns its address."
    if out.output_type == "stream":
        return f'<pre class="out">{ansi2html(out.text)}</pre>'
    data = out.get("data", {})
    if "text/markdown" in data:
        return markdown(data["text/markdown"], site, source)
    if "text/html" in data:
        return f'<div class="scroll">{data["text/html"]}</div>'
    if "image/png" in data:
        return f'<p><img src="{figure(base64.b64decode(data["image/png"]))}" alt="Figure; its caption follows" loading="lazy"></p>'
    if "application/vnd.jupyter.widget-view+json" in data:
        return '<p class="out">Controls stand here when the notebook is run.</p>'
    return f'<pre class="out">{escape(data.get("text/plain", ""))}</pre>'


def notebook_page(path, site, out):
    "The body of a notebook's page."
    parts, name, figures = [], path.relative_to(ROOT).as_posix(), []

    def figure(png):
        figures.append(f"images/{path.stem}_{len(figures) + 1}.png")
        (out / figures[-1]).write_bytes(png)
        return figures[-1]

    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(markdown(cell.source, site, name))
        elif cell.cell_type == "code":
            code = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip()
            aside = re.search(r"^#\|\s*(hide|echo:\s*false)", cell.source, re.M)  # at hand, but folded away
            parts += (
                [f"<details><summary>code</summary>{python(code)}</details>" if aside else python(code)] if code else []
            )
            parts += [output(o, site, name, figure) for o in cell.outputs]
    return "\n".join(parts)


def heading(text, name):
    "Title and one-line summary of a notebook or a text."
    title = re.search(r"^# (.+)$", text, re.M)
    summary = re.search(r"^# .+\n+> (.+(?:\n> .+)*)", text, re.M)
    return (title[1] if title else name), (re.sub(r"\n> ?", " ", summary[1]) if summary else "")


# Modules


def comments(source):
    "Line -> its comment."
    return {
        t.start[0]: t.string.lstrip("# ")
        for t in tokenize.generate_tokens(io.StringIO(source).readline)
        if t.type == tokenize.COMMENT
    }


def arguments(node, said):
    "Name, annotation, default and description of every argument and of what is returned."
    a, rows = node.args, []
    plain = a.posonlyargs + a.args
    given = [None] * (len(plain) - len(a.defaults)) + a.defaults + a.kw_defaults
    for arg, default in [*zip(plain + a.kwonlyargs, given), *((v, None) for v in (a.vararg, a.kwarg) if v)]:
        alone = arg.lineno != node.lineno
        if arg.arg != "self":
            rows.append((arg.arg, arg.annotation, default, said.get((default or arg).end_lineno, "") if alone else ""))
    return rows + ([("returns", node.returns, None, "")] if node.returns else [])


def attributes(node, said):
    "Name, annotation, default and description of the fields of a dataclass or a named tuple."
    rows = []
    for item, after in zip(node.body, [*node.body[1:], None]):
        if isinstance(item, ast.AnnAssign):
            text = (
                after.value.value
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                else said.get(item.end_lineno, "")
            )
            rows.append((ast.unparse(item.target), item.annotation, item.value, text))
    return rows


def described(node, said, site, source, owner=""):
    "A function, class or method: signature, docstring, a table of what goes in and comes out, then the public methods."
    is_class = isinstance(node, ast.ClassDef)
    begin = next((n for n in node.body if getattr(n, "name", "") == "__init__"), None) if is_class else node
    rows = (attributes(node, said) if is_class else []) or (arguments(begin, said) if begin else [])
    words = [f"{n}={ast.unparse(d)}" if d else n for n, _, d, _ in rows if n != "returns"]
    inside = ", ".join(words) if len(", ".join(words)) < 90 else "\n    " + ",\n    ".join(words) + "\n"
    level, mark = ("h3", f"{owner}.{node.name}") if owner else ("h2", node.name)
    html = [
        f'<{level} id="{mark}"><code>{mark}</code><a class="anchor-link" href="#{mark}">#</a></{level}>',
        python(f"{'class ' if is_class else ''}{mark}({inside})"),
        markdown(ast.get_docstring(node) or "", site, source),
    ]
    word = lambda node: (
        node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node)
    )
    kind = lambda node: f"<code>{escape(word(node))}</code>" if node else ""
    cell = lambda node: f"<code>{escape(ast.unparse(node))}</code>" if node else ""
    table = [
        f"<tr><td><code>{n}</code></td><td>{kind(a)}</td><td>{cell(d)}</td><td>{markdown(text, site, source)}</td></tr>"
        for n, a, d, text in rows
    ]
    if table:
        html.append(
            '<div class="scroll"><table><thead><tr><th>name</th><th>type</th><th>default</th><th>what it is</th></tr></thead>'
            + "".join(table)
            + "</table></div>"
        )
    for item in node.body if is_class else ():
        if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
            html.append(described(item, said, site, source, node.name))
    return "\n".join(html)


def exported(path):
    "The module's source and tree, its docstring, and what it exports: name -> node."
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    named = {n.name: n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    named |= {t.id: n for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    named |= {n.target.id: n for n in tree.body if isinstance(n, ast.AnnAssign)}
    names = [e.value for e in named["__all__"].value.elts] if "__all__" in named else []
    return source, ast.get_docstring(tree) or "", {n: named[n] for n in names if n in named}


def module_page(path, site):
    "The body of a module's page."
    source, summary, found = exported(path)
    said, name = comments(source), path.relative_to(ROOT).as_posix()
    book = re.search(r"File to edit: \.\./(nbs/\S+\.ipynb)", source)
    origin = f" Derived, tested and shown in [{Path(book[1]).stem}](../{book[1]})." if book else ""
    parts = [markdown(f"# kvae_nb.{path.stem}\n\n{summary}{origin}", site, name)]
    for label, node in found.items():
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            parts.append(described(node, said, site, name))
        else:
            value = ast.get_source_segment(source, node)
            parts.append(
                f'<h2 id="{label}"><code>{label}</code></h2>'
                + python(value if len(value) < 600 else value[:600] + " …")
                + markdown(said.get(node.end_lineno, ""), site, name)
            )
    return "\n".join(parts)


# The site


def plan():
    "The site before any page is made, and the groups of its sidebar: title -> rows of page, title, summary, maker of the body."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    books = [ROOT / "nbs/index.ipynb", *sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))]
    modules = [p for p in sorted((ROOT / "kvae_nb").glob("*.py")) if exported(p)[2]]
    pages = {f"nbs/{p.name}": p.stem for p in books} | TEXTS
    names = {
        f"{prefix}{n}": f"api_{p.stem}.html#{n}"
        for p in modules
        for n in exported(p)[2]
        for prefix in ("", f"kvae_nb.{p.stem}.", f"{p.stem}.")
    }
    groups = {"Notebooks": [], "More": [], "Library": []}
    site = Site(pages, names, config["DEFAULT"]["git_url"], {})
    for p in books:
        text = "\n\n".join(c.source for c in nbformat.read(p, as_version=4).cells[:2] if c.cell_type == "markdown")
        groups["Notebooks"].append((p.stem, *heading(text, p.stem), lambda out, p=p: notebook_page(p, site, out)))
    for name, page in TEXTS.items():
        if (text := (ROOT / name)).exists():
            groups["More"].append(
                (
                    page,
                    *heading(text.read_text(encoding="utf-8"), page),
                    lambda out, name=name: markdown((ROOT / name).read_text(encoding="utf-8"), site, name),
                )
            )
    for p in modules:
        groups["Library"].append((f"api_{p.stem}", p.stem, exported(p)[1], lambda out, p=p: module_page(p, site)))
    return site, groups


def build(out=ROOT / "_docs"):
    "Writes the site and returns the number of its pages. Raises `Broken` with everything that has to be mended."
    site, groups = plan()
    shutil.rmtree(out, ignore_errors=True)
    (out / "images").mkdir(parents=True)
    template, faults = Template((HERE / "docs_page.html").read_text(encoding="utf-8"), autoescape=False), []
    order = [row for rows in groups.values() for row in rows]
    for k, (page, title, summary, body) in enumerate(order):
        try:
            html = body(out)
        except Broken as fault:
            faults.append(f"{page}: {fault}")
            continue
        near = {"before": order[k - 1] if k else None, "after": order[k + 1] if k + 1 < len(order) else None}
        (out / f"{page}.html").write_text(
            template.render(
                page=page, title=escape(title), summary=escape(summary, quote=True), body=html, groups=groups, **near
            ),
            encoding="utf-8",
        )
    if faults:
        raise Broken("\n".join(faults))
    for source, target in site.images.items():
        shutil.copyfile(ROOT / source, out / target)
    (out / "style.css").write_text(
        (HERE / "docs.css").read_text(encoding="utf-8") + HtmlFormatter(style="default").get_style_defs(".highlight"),
        encoding="utf-8",
    )
    shutil.copyfile(
        Path(find_spec("ziamath").submodule_search_locations[0]) / "fonts/STIXTwoMath-Regular.ttf", out / "math.ttf"
    )
    return len(order)


if __name__ == "__main__":
    try:
        print(f"{build()} pages in _docs; open _docs/index.html")
    except Broken as fault:
        sys.exit(str(fault))
