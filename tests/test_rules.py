"""The rules of the house: how long things are, what may be imported from where, how a chapter of the story begins."""

import ast
import json
import os
import re
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("KVAE_NB_TREE", Path(__file__).resolve().parent.parent))
MODULES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "kvae_nb").rglob("*.py") if p.name != "_modidx.py")
NOTEBOOKS = sorted(p.name for p in (ROOT / "nbs").glob("*.ipynb"))
SCRIPTS = sorted(
    p.relative_to(ROOT).as_posix()
    for folder in ("benchmarks", "experiments", "tests", "tools")
    for p in (ROOT / folder).rglob("*.py")
)
ONE_LOOP = {"benchmarks/numba_kernel.py": {"forward"}}  # compiled as one; what is measured there is its speed
STORY = [n for n in NOTEBOOKS if re.match(r"0[1-9]|1[0-5]", n)]
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def tree(path):
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def cells(name):
    return json.loads((ROOT / "nbs" / name).read_text(encoding="utf-8"))["cells"]


def source(cell):
    "The text of a cell; of code without magics."
    lines = "".join(cell["source"]).splitlines()
    if cell["cell_type"] == "code":
        lines = ["" if line.lstrip().startswith(("%", "!")) else line for line in lines]
    return "\n".join(lines)


def code(name):
    return [source(c) for c in cells(name) if c["cell_type"] == "code"]


@pytest.mark.parametrize("path", MODULES)
def test_a_file_has_at_most_500_lines_and_a_function_40(path):
    lines = (ROOT / path).read_text(encoding="utf-8").count("\n")
    long = [
        f"{n.name} has {n.end_lineno - n.lineno + 1} lines"
        for n in ast.walk(tree(path))
        if isinstance(n, FUNCTION) and n.end_lineno - n.lineno + 1 > 40
    ]
    assert lines <= 500, f"{path} has {lines} lines"
    assert not long, f"{path}: {'; '.join(long)}"


@pytest.mark.parametrize("path", SCRIPTS)
def test_functions_of_scripts_have_at_most_40_lines(path):
    nodes = [n for n in ast.walk(tree(path)) if isinstance(n, FUNCTION) and n.end_lineno - n.lineno + 1 > 40]
    long = {n.name for n in nodes} - ONE_LOOP.get(path, set())
    assert not long, f"{path}: {', '.join(sorted(long))} have over 40 lines"


MEASURE = {"impute", "imputation_errors", "imputation_curves", "EvaluationConfig"}


@pytest.mark.parametrize("path", [p for p in SCRIPTS if Path(p).parts[0] == "experiments"])
def test_scripts_that_fill_in_hidden_frames_say_by_how_many_particles(path):
    "A stored result must not change because a default does."
    calls = [n for n in ast.walk(tree(path)) if isinstance(n, ast.Call)]
    asked = [n for n in calls if getattr(n.func, "attr", getattr(n.func, "id", "")) in MEASURE]
    hides_none = lambda n: len(n.args) > 1 and isinstance(n.args[1], ast.Constant)  # a mask of None
    silent = [n.lineno for n in asked if not hides_none(n) and not {k.arg for k in n.keywords} & {"particles", None}]
    assert not silent, f"{path}, lines {silent}"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_functions_in_cells_have_at_most_40_lines(name):
    nodes = [n for s in code(name) for n in ast.walk(ast.parse(s)) if isinstance(n, FUNCTION)]
    assert not [n.name for n in nodes if n.end_lineno - n.lineno + 1 > 40]


@pytest.mark.parametrize("path", MODULES)
def test_nothing_imports_a_private_name_of_another_module(path):
    ours = [n for n in ast.walk(tree(path)) if isinstance(n, ast.ImportFrom) and (n.level or "kvae_nb" in n.module)]
    private = [a.name for n in ours for a in n.names if a.name.startswith("_") and not a.name.startswith("__")]
    assert not private, f"{path} imports {', '.join(private)}"


@pytest.mark.parametrize("path", MODULES)
def test_methods_stand_in_their_class_or_are_patched(path):
    classes = {n.name for n in tree(path).body if isinstance(n, ast.ClassDef)}
    assigned = [
        f"{t.value.id}.{t.attr}"
        for n in tree(path).body
        if isinstance(n, ast.Assign)
        for t in n.targets
        if isinstance(t, ast.Attribute) and isinstance(t.value, ast.Name) and t.value.id in classes
    ]
    assert not assigned, f"{path}: {', '.join(assigned)}"


def public_names(package):
    "Name -> the modules of the package that define it."
    where = {}
    for path in MODULES:
        if path.startswith(f"kvae_nb/{package}/") and not path.endswith("__init__.py"):
            for n in tree(path).body:
                if isinstance(n, (*FUNCTION.__args__, ast.ClassDef)) and not n.name.startswith("_"):
                    if not any("patch" in ast.unparse(d) for d in n.decorator_list):
                        where.setdefault(n.name, set()).add(path)
    return where


PACKAGES = ("core", "worlds", "inference", "data", "models", "evaluation", "training", "app")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_public_name_is_defined_once_in_a_package(package):
    twice = {n: sorted(m) for n, m in public_names(package).items() if len(m) > 1}
    assert not twice, "\n".join(f"{n}: {', '.join(m)}" for n, m in sorted(twice.items()))


@pytest.mark.parametrize("package", PACKAGES)
def test_the_door_of_a_package_leads_to_all_its_modules(package):
    door = (ROOT / "kvae_nb" / package / "__init__.py").read_text(encoding="utf-8")
    named = set(re.findall(r'"(\w+)"', door[door.index("__dir__ = door(") :].partition(")")[0]))
    assert named == {p.stem for p in (ROOT / "kvae_nb" / package).glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_imports_stand_in_cells_of_their_own(name):
    "Because nbdev's documentation step executes every cell that imports at its top level."
    mixed = []
    for k, s in enumerate(code(name)):
        kinds = {isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(s).body}
        if len(kinds) > 1:
            mixed.append(f"code cell {k}: {s.splitlines()[0]}")
    assert not mixed, "\n".join(mixed)


def draws(cell):
    "Whether a cell shows a picture, or a text shows one."
    if cell["cell_type"] == "markdown":
        return bool(re.search(r"!\[|<img|<video", source(cell)))
    return any({"image/png", "image/gif", "image/svg+xml"} & o.get("data", {}).keys() for o in cell.get("outputs", []))


@pytest.mark.parametrize("name", STORY)
def test_a_chapter_begins_with_a_picture_and_has_short_cells(name):
    book = cells(name)
    shown = lambda c: (
        c["cell_type"] == "code" and not re.search(r"^#\|\s*(hide|default_exp|code-fold)", source(c), re.M)
    )
    first = next(k for k, c in enumerate(book) if shown(c))
    assert any(draws(c) for c in book[: first + 1]), f"{name}: no picture before the first code"
    before = 0
    for c in book[first:]:
        if c["cell_type"] == "code":
            before += len(source(c).splitlines())
            if draws(c):
                break
    assert before <= 60 + len(source(c).splitlines()), f"{name}: {before} lines of code up to its first figure"
    counted = [c for c in book if c["cell_type"] == "code"]  # what is folded is read as well
    lengths = sorted((len(source(c).splitlines()) for c in counted), reverse=True)
    tenth = lengths[len(lengths) // 10]
    assert tenth <= 25, f"{name}: the longest tenth of the cells has {lengths[: len(lengths) // 10 + 1]} lines"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_lead_somewhere(name):
    for c in cells(name):
        if c["cell_type"] == "markdown":
            for target in re.findall(r"\]\(([^)#\s:]+\.ipynb)", source(c)):
                assert (ROOT / "nbs" / target).exists(), f"{name} leads to {target}"
