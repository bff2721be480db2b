"""tools/mutate.py on a small notebook: it shows the faults that a weak cell lets through, and tries them again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"
sys.path.insert(0, str(TOOLS))
from flow import Flows
from mutants import mutants

if not hasattr(os, "fork"):
    pytest.skip("mutants run in forks", allow_module_level=True)

SQUARE = """#| export
def square(x):
    "The number x**2."
    return x ** 2

def unused(x: int = 4):
    return x + 1
"""
FOLDER = "import os, tempfile\nplace = tempfile.mkdtemp()"
TURN = """#| export inference.turns
def turn(n):
    while n:
        n = -n
        break
    return n
"""
WRITES = "assert turn(3) == -3 and os.listdir(place) == []\nopen(os.path.join(place, 'mine'), 'w').close()"
WEAK, STRONG = "assert square(2) == 4", "assert square(3) == 9"  # 2 * 2 is 4 as well


def write(path, square, check):
    "A notebook of eight code cells."
    skipped = "#| eval: false\nraise SystemExit"
    sources = "#| default_exp inference.gaps", "%matplotlib inline", square, FOLDER, TURN, WRITES, skipped, check
    rows = [{"cell_type": "code", "id": f"cell{k}", "source": s.splitlines(True)} for k, s in enumerate(sources)]
    path.write_text(json.dumps({"cells": rows}), encoding="utf-8")
    return path


def mutate(*words, code=0):
    "What the command prints."
    done = subprocess.run([sys.executable, TOOLS / "mutate.py", *map(str, words)], text=True, capture_output=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def stored(folder, module="inference.gaps"):
    "What is dead and what is alive: function and change -> result."
    data = json.loads((folder / f"{module}.json").read_text(encoding="utf-8"))
    dead = sorted((r["function"], r["by"], r["error"]) for r in data["dead"].values())
    return dead, {(r["function"], r["after"]): r["result"] for r in data["alive"].values()}


@pytest.fixture(scope="module")
def examined(tmp_path_factory):
    "A folder with a notebook, tried once, and what was printed."
    folder = tmp_path_factory.mktemp("mutants")
    write(folder / "01_gaps.ipynb", SQUARE, WEAK)
    return folder, mutate(folder / "01_gaps.ipynb", "--out", folder, "--workers", 2)


def test_survivors_are_shown(examined):
    folder, said = examined
    dead, alive = stored(folder)
    assert dead == [("square", "cell7", "AssertionError")], "x ** 3"
    uncovered = {("unused", "return (x - 1)"): "not covered", ("unused", "return x + 0"): "not covered"}
    assert alive == {("square", "return (x * 2)"): "survived"} | uncovered
    assert "cell cell2, line 4\n    - return x ** 2\n    + return (x * 2)" in said
    assert said.splitlines()[-2].split()[-2:] == ["25", "%"]


def test_endless_loops_and_files_do_no_harm(examined):
    dead, alive = stored(examined[0], "inference.turns")
    assert alive == {} and sorted(e for *_, e in dead) == ["AssertionError"] * 3 + ["timeout"]


def test_only_what_may_have_changed_is_tried_again(examined, tmp_path):
    for path in examined[0].glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    notebook = write(tmp_path / "01_gaps.ipynb", SQUARE, WEAK)
    assert "8 selected, 0 to try" in mutate(notebook, "--out", tmp_path)
    write(notebook, SQUARE, STRONG)
    assert "2 selected, 1 to try" in mutate(notebook, "--out", tmp_path, "--function", "square")
    assert ("square", "return (x * 2)") not in stored(tmp_path)[1]
    write(notebook, SQUARE.replace("x ** 2", "x ** 2 + 0.5"), STRONG.replace("9", "9.5"))
    assert "to try" in mutate(notebook, "--out", tmp_path, "--function", "square")
    assert len([d for d in stored(tmp_path)[0] if d[0] == "square"]) == 4


def test_a_survivor_is_judged(examined, tmp_path):
    path = tmp_path / "inference.gaps.json"
    path.write_bytes((examined[0] / path.name).read_bytes())
    key = next(k for k, r in json.loads(path.read_text())["alive"].items() if r["function"] == "square")
    said = mutate("--out", tmp_path, "--equivalent", key, "two is enough", "--survivors")
    assert "x * 2" not in said and "return x + 0" in said and said.split()[-3:] == ["1", "33", "%"]
    assert "No survivor is called nobody." in mutate("--out", tmp_path, "--equivalent", "nobody", "", code=1)


def test_a_notebook_that_fails_is_refused(tmp_path):
    notebook = write(tmp_path / "01_gaps.ipynb", SQUARE, "assert square(2) == 5")
    assert "01_gaps.ipynb itself fails in cell cell7: AssertionError" in mutate(notebook, "--out", tmp_path, code=1)


@pytest.mark.parametrize(
    "line, changed",
    [
        ("return A @ P.mT", ["(P.mT @ A)", "A @ P"]),
        ("return -x.sum(-1)", ["x.sum(-1)", "-x.mean(-1)", "-x", "-x.sum((-2))"]),
        ("return torch.where(c, 0.5, y)", ["torch.where(c, y, 0.5)", "torch.where(c, 0.55, y)"]),
        ("return f(x, y, k=1)", ["f(y, x, k=1)", "f(x, y)", "f(x, y, k=0)"]),
        ("return symmetrize(x).where(c, x)", ["symmetrize(x)", "x.where(c, x)"]),
        ("return x.reshape(-1, n).contiguous()", ["x.reshape(n, -1).contiguous()", "x.contiguous()"]),
        ("return not a or b <= c", ["(not a and b <= c)", "a or b <= c", "not a or (b < c)"]),
        (
            "return x[1:] if y else True",
            ["x[1:] if (not y) else True", "x[0:] if y else True", "x[1:] if y else False"],
        ),
        (
            "x = g(x); raise E(f'{x + 1}')",
            ["pass; raise E(f'{x + 1}')", "x = x; raise E(f'{x + 1}')", "x = g(x); pass"],
        ),
        ("x += é", ["x -= é", "pass"]),
        ("s: Float[Tensor, 'n 2'] = 'a' + b", []),
    ],
)
def test_changes(line, changed):
    source = f"@lru_cache(8)\ndef f(x: Float[Tensor, 2], n=3) -> 4:\n    'One, 1.'\n    {line}\n"
    found = [m.after.removeprefix("return ") for m in mutants(source, "m", 0)]
    assert sorted(found) == sorted(changed)


def test_where_a_change_can_be_felt():
    cells = [
        "def f(x): return x + 1\ndef g(model): return model",
        "y = f(1); model = y",
        "for model in range(3): model = g(model)",  # sets anew what it reads
        "look = lambda: y",
        "z = [model for model in range(3)]",
        "y = 5",
        "def h(): return look()",
        "h()",
    ]
    runs = [[], [[0, "f"]], [[0, "g"]], [], [], [], [], []]
    f = next(m for m in mutants(cells[0], "m", 0) if m.function == "f")
    assert Flows(cells, runs).last(f) == 7, "`look`, defined while y was touched, is called"
    assert Flows(cells[:3] + cells[4:], runs).last(f) == 1
    assert Flows(cells, [[[0, "f"]], *runs[1:]]).last(f) == 7, "it runs where it is defined"
