"""kvae_nb beside the Kalman libraries that pip can install: speed, first call, accuracy, and what a vague prior does to
them.

    python benchmarks/lgssm_peers.py              # everything; writes benchmarks/results/lgssm_peers.json
    python benchmarks/lgssm_peers.py --quick      # small rows, a few minutes, writes nothing
    python benchmarks/lgssm_peers.py --only a e gradient dynamax kvae_nb --json out.json

One process, one thread, one core; float32 where the library has it. README.md says how to read the tables."""

import argparse
import sys
import time

from common import HERE, last_cpu, limit_threads, machine, side_by_side, significant, table, versions, write_json

ROW_NAMES = ("a", "b", "bp", "c", "d", "e")
OPERATION_NAMES = ("filter", "smoother", "gradient")
TOLERANCE = {
    "gradient": 5e-2,
    "value": 1e-3,
}  # float32 against float64, largest error over largest value: far wider than any sound arithmetic needs
CONVENTION = 1e-6  # float64 against float64: the same model, index by index


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="rows a and e, few rounds")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="WORD",
        help=f"rows ({', '.join(ROW_NAMES)}), tables ({', '.join(OPERATION_NAMES)}, stress) and beginnings of "
        "names of libraries",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="where the results go (default: benchmarks/results/lgssm_peers.json for a full run, else nowhere)",
    )
    parser.add_argument(
        "--wrt",
        nargs="+",
        default=["A", "C", "a"],
        choices=["A", "C", "Q", "R", "mean1", "cov1", "a"],
        help="what the evidence is differentiated by",
    )
    parser.add_argument("--rounds", type=int, help="rounds of A B C A B C …")
    parser.add_argument("--budget", type=float, help="seconds after which a contender leaves the rounds of one cell")
    parser.add_argument("--cpu", type=int, default=last_cpu(), help="the core to stay on; -1 for any")
    args = parser.parse_args()
    args.rows = [w for w in args.only if w in ROW_NAMES] or (["a", "e"] if args.quick else list(ROW_NAMES))
    args.tables = [w for w in args.only if w in (*OPERATION_NAMES, "stress")] or [*OPERATION_NAMES, "stress"]
    args.names = [w for w in args.only if w not in (*ROW_NAMES, *OPERATION_NAMES, "stress")]
    args.rounds, args.budget = args.rounds or (7 if args.quick else 15), args.budget or (4.0 if args.quick else 20.0)
    if args.json is None and not args.quick and not args.only:
        args.json = str(HERE / "results" / "lgssm_peers.json")
    return args


def error(found, right) -> float:
    "Largest error over largest value; NaN if there is one."
    return ((found.double() - right).abs().max() / right.abs().max()).item()


def attempt(f, *args):
    "What f returns and None, or None and why not."
    try:
        return f(*args), None
    except REFUSALS as e:
        return None, str(e).splitlines()[0] if str(e) else type(e).__name__
    except Exception as e:  # a library's own failure is a result, to be shown
        return None, f"error: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"[:200]


def check_conventions(contenders, operations) -> dict:
    "Errors in float64 on problems of 3 sequences and 5 steps. A contender that means another model is found here."
    found = {}
    for c in contenders:
        for op in operations:
            for owner, problem in tiny.items():
                built, why = attempt(c.build, op, problem, torch.float64)
                if why is None:
                    result, why = attempt(lambda: built[1](built[0]()))
                if why is None:
                    worst = max(error(v, right_tiny[owner][k]) for k, v in result.items())
                    found.setdefault(c.name, {})[f"{op}, {owner}"] = worst
                    if not worst <= CONVENTION:
                        print(f"  ! {c.name}, {op}, parameters of {owner}: off by {worst:.1e} in float64")
                elif why.startswith("error"):
                    print(f"  ! {c.name}, {op}, parameters of {owner}: {why}")
    return found


def race(row: str, operation: str, contenders, args, right) -> dict[str, dict]:
    "First call, errors and times of all contenders on one problem."
    problem, cells, runs = problems[row], {}, {}
    for c in contenders:
        start = time.perf_counter()
        built, why = attempt(c.build, operation, problem, torch.float32)
        result = None
        if why is None:
            result, why = attempt(built[0])
            cell = {"first": time.perf_counter() - start}
        if why is not None:
            cells[c.name] = {"why": why}
            continue
        cell["errors"] = {k: error(v, right[k]) for k, v in built[1](result).items()}
        cell["sound"] = all(
            e <= TOLERANCE["gradient" if k.startswith("d/d") else "value"] for k, e in cell["errors"].items()
        )
        cells[c.name], runs[c.name] = cell, built[0]
        print(
            f"  {row} {operation}: {c.name} first call {cell['first']:.2f} s, errors "
            + ", ".join(f"{k} {e:.0e}" for k, e in cell["errors"].items())
            + ("" if cell["sound"] else "  ! beyond tolerance"),
            flush=True,
        )
    for name, times in side_by_side(runs, args.rounds, args.budget).items():
        cells[name] |= times
    theirs = [cells[n]["median"] for n in runs if not n.startswith("kvae_nb") and cells[n]["sound"]]
    for cell in cells.values():
        if theirs and "median" in cell:
            cell["times_best"] = min(theirs) / cell["median"]
    return cells


def shown(cell: dict | None) -> str:
    "A cell of a table of times."
    if cell is None:
        return ""
    if "median" not in cell:
        return "error" if cell["why"].startswith("error") else "left out" if cell["why"].startswith("left out") else "–"
    ratio = f" ×{significant(cell['times_best'], 2)}" if "times_best" in cell else ""
    return f"{significant(cell['median'] * 1e3)}{ratio}{'' if cell['sound'] else ' !'}"


def stress(contenders) -> dict:
    """Errors in float32 with a vague prior: of the evidence, and of the covariances step by step; and whether these
    are covariances at all.
    """

    def of_cov(found, right):
        size = right.abs().amax((-2, -1))
        return ((found.double() - right).abs().amax((-2, -1)) / size).max().item()

    def lowest(found):
        if not found.isfinite().all():
            return float("nan")
        values = torch.linalg.eigvalsh(found.double())
        return (values[..., 0] / values[..., -1].abs()).min().item()

    table_ = {}
    for name in STRESS:
        problem = exact(make_stress(name))
        right = reference(problem, gradient=False)
        for c in contenders:
            cell = {}
            for op, kind in (("filter", "cov"), ("smoother", "smoothed cov")):
                built, why = attempt(c.build, op, problem, torch.float32)
                found, why = attempt(lambda: built[1](built[0]())) if why is None else (None, why)
                if why is not None:
                    cell[kind] = {"why": why}
                    continue
                cell[kind] = {"error": of_cov(found[kind], right[kind]), "lowest": lowest(found[kind])}
                if "evidence" in found:
                    cell["evidence"] = {"error": error(found["evidence"], right["evidence"])}
            table_.setdefault(name, {})[c.name] = cell
    return table_


def shown_stress(cell: dict | None) -> str:
    if cell is None:
        return ""
    if "why" in cell:
        return (
            "raises" if cell["why"].startswith("error") else "left out" if cell["why"].startswith("left out") else "–"
        )
    if cell["error"] != cell["error"]:
        return "NaN"
    return f"{cell['error']:.0e}" + (", not PSD" if cell.get("lowest", 0) < -1e-6 else "")


QUANTITIES = {
    "evidence": ("evidence",),
    "filtered mean": ("mean",),
    "filtered cov": ("cov",),
    "smoothed mean": ("smoothed mean",),
    "smoothed cov": ("smoothed cov",),
}


def absent(missing: dict[str, str], columns: int) -> list:
    "Rows of those that are not installed."
    return [[n, "not installed", *[""] * (columns - 1)] for n in missing]


def report_times(results: dict, names: list[str], missing: dict[str, str], args):
    "Prints the tables of times and of first calls."
    head = ["", *(f"{r}: {TITLES[r]}" for r in args.rows)]

    def show(title, cell):
        rows = [[n, *(cell(n, r) for r in args.rows)] for n in names] + absent(missing, len(args.rows))
        print(table(title, head, rows))

    for op, t in results["times"].items():
        title = f"{OPERATIONS[op]}: median milliseconds, and how many times faster than the best of the others"
        show(title, lambda n, r: shown(t.get(r, {}).get(n)))
    for op, t in results["times"].items():
        title = f"{OPERATIONS[op]}: first call in seconds, compilation included"
        show(title, lambda n, r: f"{t[r][n]['first']:.2f}" if "first" in t.get(r, {}).get(n, {}) else "")


def worst(times: dict, name: str, parts: tuple[str, ...]) -> str:
    "The largest error of a contender in these results, and the row where it is."
    found = [
        (e, row)
        for op in times.values()
        for row, cells in op.items()
        for k, e in cells.get(name, {}).get("errors", {}).items()
        if k in parts
    ]
    return "{:.0e} ({})".format(*max(found, key=lambda x: (x[0] != x[0], x[0]))) if found else ""


def report_errors(results: dict, names: list[str], missing: dict[str, str], args):
    "Prints the tables of errors: of the rows that were timed, and with a vague prior."
    times, quantities = results["times"], QUANTITIES | {"gradient": tuple(f"d/d{k}" for k in args.wrt)}
    if times:
        title = "Largest error over largest value, against float64; in brackets the row where it is worst"
        rows = [[n, *(worst(times, n, q) for q in quantities.values())] for n in names]
        print(table(title, ["", *quantities], rows + absent(missing, len(quantities))))
    kinds = {"evidence": "evidence", "cov": "filtered cov", "smoothed cov": "smoothed cov"}
    for name, cells in results.get("stress", {}).items():
        title = f"A vague prior, {name}, one sequence: error against float64 (covariances: of each step's own size)"
        rows = [[n, *(shown_stress(cells[n].get(k)) for k in kinds)] for n in names if n in cells]
        print(table(title, ["", *kinds.values()], rows + absent(missing, len(kinds))))


def report(results: dict, names: list[str], missing: dict[str, str], args):
    "Prints all tables."
    report_times(results, names, missing, args)
    report_errors(results, names, missing, args)
    cells = [c for op in results["times"].values() for row in op.values() for c in row.items()]
    why = {(n, cell["why"]) for n, cell in cells if "why" in cell}
    print("\nNotes")
    for n, text in [*sorted(why), *missing.items()]:
        print(f"  {n}: {text}")


PACKAGES = (
    "kvae_nb",
    "torch",
    "numpy",
    "dynamax",
    "jax",
    "jaxlib",
    "cuthbert",
    "torch-kf",
    "simdkalman",
    "pykalman",
    "statsmodels",
)


def described(args, spec, contenders, missing) -> dict:
    "What was run, on what, and by whom; the results are still missing."
    settings = {
        "rows": {r: TITLES[r] for r in args.rows},
        "n": 4,
        "p": 2,
        "wrt": args.wrt,
        "rounds": args.rounds,
        "budget_s": args.budget,
        "tolerance": TOLERANCE,
        "cpu": args.cpu,
    }
    return {
        "command": "python benchmarks/lgssm_peers.py " + " ".join(sys.argv[1:]),
        "machine": spec,
        "versions": versions(*PACKAGES),
        "settings": settings,
        "numbers": {c.name: c.numbers for c in contenders},
        "missing": missing,
        "times": {},
    }


def main(args):
    started, spec = time.perf_counter(), machine(1)
    torch.set_num_threads(1)
    ours = our_contenders()
    others, missing = peers()
    chosen = lambda n: not args.names or any(n.lower().startswith(w.lower()) for w in args.names)
    contenders, missing = (
        [c for c in (*ours, *others) if chosen(c.name)],
        {n: w for n, w in missing.items() if chosen(n)},
    )
    names, operations = [c.name for c in contenders], [op for op in OPERATION_NAMES if op in args.tables]
    results = described(args, spec, contenders, missing)
    print(
        f"{spec['processor']}, one thread, load {spec['load_at_start']:.2f}; "
        + ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    )
    print("Conventions, in float64:", flush=True)
    results["conventions"] = check_conventions(contenders, operations)
    print(
        f"  {sum(len(v) for v in results['conventions'].values())} results compared, largest error "
        f"{max((e for v in results['conventions'].values() for e in v.values()), default=0):.0e}",
        flush=True,
    )
    try:
        for row in args.rows if operations else []:
            right = reference(problems[row], gradient="gradient" in operations)
            for op in operations:
                results["times"].setdefault(op, {})[row] = race(row, op, contenders, args, right)
                if args.json:  # what is found stays, if the rest is interrupted
                    write_json(args.json, results | {"seconds": round(time.perf_counter() - started, 1)})
        if "stress" in args.tables:
            results["stress"] = stress(contenders)
    except KeyboardInterrupt:
        print("\nInterrupted: what follows is what was measured until then.")
        args.json = None
    results["seconds"] = round(time.perf_counter() - started, 1)
    report(results, names, missing, args)
    if args.json:
        write_json(args.json, results)


if __name__ == "__main__":
    args = arguments()
    limit_threads(1, None if args.cpu in (None, -1) else args.cpu)
    import torch
    from contenders import OPERATIONS, REFUSALS, our_contenders, peers
    from problems import STRESS, TITLES, exact, make_problem, make_stress, make_tiny, reference

    tiny = make_tiny(tuple(args.wrt))
    right_tiny = {owner: reference(p) for owner, p in tiny.items()}
    problems = {row: make_problem(row, tuple(args.wrt)) for row in args.rows}
    main(args)
