#!/usr/bin/env python3
"""Mutation testing: which small faults in the exported functions do the cells of their own notebook fail to notice?

    python tools/mutate.py nbs/05_lgssm.ipynb --sample 60        # a random sample, stratified over the functions
    python tools/mutate.py nbs/05_lgssm.ipynb --function kalman_filter
    python tools/mutate.py nbs/05_lgssm.ipynb --equivalent 3f2a91c07b "a margin of rounding only"
    python tools/mutate.py                                       # the table of everything stored so far

A mutant is an exported cell with one change (tools/mutants.py says which). The notebook runs as nbdev_test runs it; at
each exported cell the process forks once per mutant, and the fork runs the changed cell and those after it. The first
cell that fails, crashes or takes far longer than usual kills the mutant. A mutant is not run if its line was never
executed ("not covered", which counts as alive), and no further than it can be felt (tools/flow.py).

Results stand in one file per module, tests/mutants/<module>.json, written after every mutant. Run the same command
again, and it goes on where it stopped; after an edit of the notebook it tries again what was alive and what belongs to
a changed function (--again: everything). A survivor that cannot be told from the original is judged with --equivalent
and no longer counts; the score is the killed ones among the others.

Own code, because mutmut and cosmic-ray change .py files and run a command for each mutant: the cells of a notebook test
the functions which the notebook itself defines, so they would never meet such a mutant, and each would pay for `import
torch` again. A mutant of a function that deletes files may delete the wrong ones: this is meant for code that computes.
"""

import argparse
import hashlib
import json
import os
import random
import re
import sys
import time
from configparser import ConfigParser
from itertools import takewhile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from flow import under
from forks import is_covered, recorded, tried
from mutants import mutants

ROOT = Path(__file__).resolve().parent.parent
DEAD = ("killed", "timeout")


class Cell:
    "A code cell that nbdev_test runs: its id, its source without magics, and the module it is exported to, if any."

    def __init__(self, cell, default, skipped):
        lines = "".join(cell["source"]).splitlines()
        said = [line.split("|", 1)[1].split() for line in takewhile(lambda x: re.match(r"#\s*\|", x), lines)]
        heads = {words[0]: words[1:] for words in said if words}
        export = next((v for k, v in heads.items() if k in ("export", "exporti", "exports")), None)
        self.id = cell.get("id", "?")
        self.module = None if export is None else export[0] if export else default
        self.runs = not skipped & heads.keys() and heads.get("eval:", [""])[0].lower() != "false"
        self.runs &= not any("nbdev_export(" in line for line in lines)
        self.source = "\n".join("pass" if re.match(r"[%!]\w", x) else x for x in lines) + "\n"


class Notebook:
    "The cells of a notebook that run, where they run, and the mutants of those which are exported."

    def __init__(self, path):
        self.path = Path(path).resolve()
        cells = [c for c in json.loads(self.path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
        default = re.search(r"#\s*\|\s*default_exp\s+(\S+)", "\n".join("".join(c["source"]) for c in cells))
        self.root = next((p for p in self.path.parents if (p / "settings.ini").exists()), self.path.parent)
        config = ConfigParser(delimiters=["="], interpolation=None)
        config.read(self.root / "settings.ini", encoding="utf-8")
        skipped = set(config.get("DEFAULT", "tst_flags", fallback="notest slow gpu").split())
        made = [Cell(c, default and default[1], skipped) for c in cells]
        self.cells = [c for c in made if c.runs]
        self.digest = hashlib.sha1("\0".join(c.source for c in self.cells).encode()).hexdigest()[:10]
        self.mutants = [m for k, c in enumerate(self.cells) if c.module for m in mutants(c.source, c.module, k)]


class Store:
    "The results of one module, by key: what killed each dead mutant, and everything about those alive."

    def __init__(self, folder, module):
        self.path, self.module = Path(folder) / f"{module}.json", module
        data = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        self.possible, self.dead, self.alive = (data.get(k, {}) for k in ("possible", "dead", "alive"))

    def save(self):
        "Write the file, whole or not at all, with a line for each mutant."
        parts = []
        for name in ("possible", "dead", "alive"):
            rows = sorted(getattr(self, name).items())
            text = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in rows)
            parts.append(f' "{name}": {{\n{text}\n }}')
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".part")
        new.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
        os.replace(new, self.path)

    def match(self, notebook):
        "Forget the mutants that this notebook, or one that is gone, no longer has."
        here = {m.key for m in notebook.mutants if m.module == self.module}
        gone = lambda stem: not notebook.path.with_name(f"{stem}.ipynb").exists()
        for group in (self.dead, self.alive):
            for key in [k for k in group if k not in here]:
                if group[key]["notebook"] == notebook.path.stem or gone(group[key]["notebook"]):
                    del group[key]
        self.possible = {k: v for k, v in self.possible.items() if not gone(k)} | {notebook.path.stem: len(here)}
        self.save()

    def is_done(self, mutant, digest):
        "Whether it is dead, judged equivalent, or alive with the cells of today."
        alive = self.alive.get(mutant.key, {})
        return mutant.key in self.dead or "equivalent" in alive or alive.get("digest") == digest

    def add(self, mutant, notebook, answer):
        "Put one result down."
        for group in (self.dead, self.alive):
            group.pop(mutant.key, None)
        row = {"function": mutant.function, "notebook": notebook.path.stem}
        if answer["result"] in DEAD:
            self.dead[mutant.key] = row | {"by": answer["by"], "error": answer["error"] or answer["result"]}
        else:
            row |= {"cell": notebook.cells[mutant.cell].id, "line": mutant.line, "digest": notebook.digest}
            row |= {"result": answer["result"], "before": mutant.before, "after": mutant.after}
            self.alive[mutant.key] = row
        self.save()


def sampled(found, size, seed):
    "This many of the mutants, each function with its share."
    groups, rng = {}, random.Random(seed)
    for m in found:
        groups.setdefault((m.module, m.function), []).append(m)
    for group in groups.values():
        rng.shuffle(group)
    row, first = [m for group in groups.values() for m in group], rng.random()
    return row if len(row) <= size else [row[int((k + first) * len(row) / size)] for k in range(size)]


def show(key, row, how=""):
    "Print a mutant, and the change if it is alive."
    print(f"{row['result']:<12}{key}  {row['function']}  {how}".rstrip())
    if "before" in row:
        print(f"    cell {row['cell']}, line {row['line']}\n    - {row['before']}\n    + {row['after']}")
    sys.stdout.flush()


def selected(notebook, options):
    "The mutants that the options name, in the order of the notebook."
    chosen = [m for m in notebook.mutants if not options.function or under(m.function, options.function)]
    if not chosen:
        raise SystemExit(f"{notebook.path.name} exports nothing to change under the name {options.function or 'any'}.")
    chosen = sampled(chosen, options.sample, options.seed) if options.sample else chosen
    return sorted(chosen, key=lambda m: (m.cell, m.line))


def examine(notebook, options):
    "Try the selected mutants of a notebook that have no result yet."
    stores = {name: Store(options.out, name) for name in {m.module for m in notebook.mutants}}
    for store in stores.values():
        store.match(notebook)
    chosen = selected(notebook, options)
    todo = [m for m in chosen if options.again or not stores[m.module].is_done(m, notebook.digest)]
    print(f"{notebook.path.name}: {len(notebook.mutants)} mutants, {len(chosen)} selected, {len(todo)} to try")
    if not todo:
        return

    def note(m, answer, how=""):
        store = stores[m.module]
        store.add(m, notebook, answer)
        show(m.key, store.alive.get(m.key) or answer | {"function": m.function}, how)

    times, lines, flows = recorded(notebook)
    covered = {m.key: m for m in todo if is_covered(m, lines)}
    for m in todo:
        if m.key not in covered:
            note(m, {"result": "not covered"})
    start = time.time()
    for x in tried(notebook, times, flows, [*covered.values()], options.workers):
        note(covered[x["key"]], x, f"by {x['by']} {x['error']} in {x['seconds']:.1f} s" if x["result"] in DEAD else "")
    took = time.time() - start
    print(f"{len(covered)} mutants took {took:.0f} s, {took / max(1, len(covered)):.1f} s each")


def table(stores):
    "Print a row for each module."
    rows = [("module", "functions", "possible", "tried", "killed", "survived", "not covered", "equivalent", "score")]
    for s in stores:
        alive = [r for r in s.alive.values() if "equivalent" not in r]
        equal, tried = len(s.alive) - len(alive), len(s.dead) + len(s.alive)
        survived = sum(r["result"] == "survived" for r in alive)
        functions = len({r["function"] for r in [*s.alive.values(), *s.dead.values()]})
        score = f"{100 * len(s.dead) / max(1, tried - equal):.0f} %"
        counts = sum(s.possible.values()), tried, len(s.dead), survived, len(alive) - survived, equal
        rows.append((s.module, functions, *counts, score))
    widths = [max(len(str(r[k])) for r in rows) for k in range(len(rows[0]))]
    for r in rows:
        print("  ".join([r[0].ljust(widths[0]), *(str(x).rjust(w) for x, w in zip(r[1:], widths[1:]))]))


def judge(stores, key, reason):
    "Note that a survivor cannot be told from the original, and why."
    for store in stores:
        if key in store.alive:
            store.alive[key]["equivalent"] = reason
            return store.save()
    raise SystemExit(f"No survivor is called {key}.")


def arguments():
    "What the command line says."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("notebooks", nargs="*", help="notebooks to examine; without any, the table of what is stored")
    add("--sample", type=int, metavar="K", help="so many mutants of each notebook, not all")
    add("--seed", type=int, default=0, help="of the sample (0)")
    add("--function", metavar="NAME", help="mutants of this function, class or method only")
    add("--workers", type=int, default=1, help="processes at the same time (1)")
    add("--again", action="store_true", help="try also what has a result")
    add("--survivors", action="store_true", help="list also what is stored as alive and not judged")
    add("--equivalent", metavar=("KEY", "REASON"), nargs=2, help="this survivor does not count, and why")
    add("--out", default=ROOT / "tests" / "mutants", help="folder of the results (tests/mutants)")
    return parser.parse_args()


def main():
    options, names = arguments(), set()
    try:
        for path in options.notebooks:
            notebook = Notebook(path)
            names |= {m.module for m in notebook.mutants}
            examine(notebook, options)
    except KeyboardInterrupt:
        raise SystemExit("\nStopped; the same command goes on from here.") from None
    stores = [Store(options.out, p.stem) for p in sorted(Path(options.out).glob("*.json"))]
    if options.equivalent:
        judge(stores, *options.equivalent)
    stores = [s for s in stores if not names or s.module in names]
    if options.survivors:
        for key, row in sorted(
            (x for s in stores for x in s.alive.items()), key=lambda x: (x[1]["cell"], x[1]["line"])
        ):
            if "equivalent" not in row:
                show(key, row)
    table(stores)


if __name__ == "__main__":
    main()
