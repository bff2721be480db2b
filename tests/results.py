"""What the stored results say: the values behind the sentences in tests/claims.py."""

import json
import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from kvae_nb.evaluation.imputation import DROPS, GAPS, PUBLISHED
from kvae_nb.inference.routes import BACKENDS

ROOT = Path(__file__).resolve().parent.parent
POINTS = [("gap", str(n)) for n in GAPS] + [("drop", str(p)) for p in DROPS]
ROWS = [
    (how, kind, n)
    for how in ("smoothing", "filtering")
    for kind, n in [("gap", n) for n in (1, 3, 7, 11, 15)] + [("drop", p) for p in (0.3, 0.5, 0.8)]
]  # of the first table of the results page
FIVE = ("1", "3", "7", "11", "15")
EPOCHS = "valid_elbo_per_frame"  # one entry for each epoch


@lru_cache
def stored(name: str):
    "A result file."
    return json.loads((ROOT / "experiments" / "results" / f"{name}.json").read_text(encoding="utf-8"))


# --- films: figure 3, its limit, and the runs that are compared there


def films(**wanted) -> list[dict]:
    "Rows of films.json with these entries."
    return [r for r in stored("films")["runs"] if all(r[k] == v for k, v in wanted.items())]


def best(data: str = "box.npz") -> list[dict]:
    "The runs of the preset `best` on these films."
    return [r for r in films(data=data, changes={}) if "--preset best" in r["command"]]


def fresh() -> list[dict]:
    "The runs of the preset `best` that were measured on films without a choice."
    return stored("fresh")["runs"]


def particles() -> dict[str, dict]:
    "The runs on fresh films whose hidden frames were filled in twice, by seed."
    return stored("particles")["runs"]


def filled(way: str, how: str, kind: str = "gap", n: object = 15) -> float:
    "Their mean error, plugged in or by particles."
    return float(np.mean([r["imputation"][kind][str(n)][way][how]["mean"] for r in particles().values()]))


def by_particles(how: str, kind: str, n: object) -> float:
    "The error by particles as a share of the plugged-in one."
    return filled("particles", how, kind, n) / filled("plugged_in", how, kind, n)


def thirds_met() -> list[tuple[str, str]]:
    "The points of figure 3 at which smoothing by particles has at most a third of the published error."
    return [k for k in POINTS if filled("particles", "smoothing", *k) <= PUBLISHED[k[0]][k[1]]["smoothing"] / 3]


def vae_rnn() -> list[dict]:
    return films(method="VAE-RNN")


def budget(kind: str) -> list[dict]:
    "The runs of the preset `demo` with 20 epochs on the paper's films."
    return [r for r in stored("switching_box")["runs"] if r["kind"] == kind and r["data"] == "box.npz"]


def errors(runs: list[dict], how: str, kind: str = "gap", n: object = 7) -> np.ndarray:
    "The imputation error of each run at one point of figure 3."
    found = [r["imputation"][kind][str(n)][how] for r in runs]
    return np.array([e["mean"] if isinstance(e, dict) else e for e in found])


def spread(runs: list[dict], how: str, n: int = 7) -> tuple[float, float]:
    "Mean and standard deviation over the seeds at a gap of n."
    found = errors(runs, how, "gap", n)
    return found.mean(), found.std(ddof=1)


def published(how: str, kind: str = "gap", n: object = 7) -> float:
    return PUBLISHED[kind][str(n)][how]


def limit(how: str, kind: str = "gap", n: object = 7) -> float:
    return stored("limits")["imputation"][kind][str(n)][how]


def goal(how: str, kind: str, n: object) -> float:
    return published(how, kind, n) / {"smoothing": 3, "filtering": 2}[how]


def possible(how: str, kind: str, n: object) -> bool:
    "Whether the goal is above the limit."
    return limit(how, kind, n) < goal(how, kind, n)


def goals_met(how: str, runs: list[dict]) -> int:
    "At how many points of figure 3 the goal is met."
    return sum(errors(runs, how, kind, n).mean() <= goal(how, kind, n) for kind, n in POINTS)


def tightest() -> float:
    """The share of dropped frames in the first table at which the goal of filtering is possible, and nearest to the
    limit.
    """
    at = [n for how, kind, n in ROWS if (how, kind) == ("filtering", "drop") and possible(how, kind, n)]
    return min(at, key=lambda n: goal("filtering", "drop", n) - limit("filtering", "drop", n))


def below(runs: list[dict]) -> bool:
    "Whether every run is below what was published at every point, by smoothing and by filtering."
    return all(
        (errors(runs, how, *at) < published(how, *at)).all() for how in ("smoothing", "filtering") for at in POINTS
    )


def better(these: list[dict], than: list[dict]) -> bool:
    "Whether the mean error by filtering is smaller at every gap."
    return all(errors(these, "filtering", "gap", n).mean() < errors(than, "filtering", "gap", n).mean() for n in GAPS)


def against_published(method: str, key: str) -> list[float]:
    "Errors of a recurrent model by filtering minus the published ones, for each gap."
    return [errors(films(method=method), "filtering", "gap", n).mean() - published(key, "gap", n) for n in GAPS]


def over_limit(how: str) -> np.ndarray:
    "The mean error of `best` over the limit, for each gap."
    return np.array([errors(best(), how, "gap", n).mean() / limit(how, "gap", n) for n in GAPS])


def fresh_over_chosen() -> list[float]:
    "Mean error on the fresh films over that on the films by which the settings were chosen, for each row of the table."
    return [errors(fresh(), *r).mean() / errors(best(), *r).mean() for r in ROWS]


def switching_below(how: str) -> int:
    "The longest gap up to which the switching KVAE is below the published curve by more than a hundredth of it (mean)."
    found = [errors(budget("skvae"), how, "gap", n).mean() < 0.99 * published(how, "gap", n) for n in GAPS]
    return next((GAPS[k - 1] for k, ok in enumerate(found) if not ok), GAPS[-1])


def bounds() -> list[float]:
    return [r["elbo_per_frame"] for r in best()]


# --- the three trainings of "What helped"


def levers() -> list[dict]:
    "Convolutions with little and with much weight on the pixels, then key points."
    found = films(data="box.npz", method="KVAE", seed=0)
    return sorted(found, key=lambda r: (r["settings"]["network"], r["settings"]["reconstruction_weight"]))


def lever_gaps() -> list[np.ndarray]:
    "The errors in gaps, smoothing and filtering, of each."
    at = [(how, "gap", n) for how in ("smoothing", "filtering") for n in GAPS]
    return [np.array([errors([r], *a)[0] for a in at]) for r in levers()]


def lever_settings(key: str) -> list:
    return [r["settings"][key] for r in levers()]


def pixels_cost_gaps() -> bool:
    (little, much, _), gaps = levers(), lever_gaps()
    sharper = much["elbo_per_frame"] > little["elbo_per_frame"]
    return sharper and much["bent_pixels"] > little["bent_pixels"] and bool((gaps[1] > gaps[0]).all())


def points_help() -> bool:
    little, _, points = levers()
    return points["elbo_per_frame"] > little["elbo_per_frame"] and points["bent_pixels"] < little["bent_pixels"]


# --- probes, pendulum, regimes, collapse, films of one's own


def probes() -> dict[str, dict]:
    return {m["name"]: m for m in stored("probes")["models"]}


def distance(name: str) -> float:
    "Mean of d²/dim of the smoothed a over the hidden steps: 1 if the covariances are right."
    return float(np.mean(probes()[name]["calibration"]["smoothed_distance"]))


def hidden_steps() -> int:
    return len(probes()["box"]["calibration"]["smoothed_distance"])


def inside(name: str, how: str) -> np.ndarray:
    "How often the truth was inside the ellipses of 50, 90 and 99 %."
    return np.array([np.mean(level) for level in probes()[name]["calibration"][how]])


def sound(name: str, steps: slice = slice(None)) -> float:
    "Share of sound frames among those drawn."
    return float(np.mean(probes()[name]["sampled"]["sound"][steps]))


def read_from_z(what: slice) -> list[float]:
    "R² of positions (first two) or velocities (last two) of the balls by a linear reading of z."
    return [v for m in probes().values() for how in ("smoothed", "filtered") for v in m["truth"][how][what]]


def velocities_from_a() -> list[float]:
    return [v for m in probes().values() for v in m["truth"]["a"][2:]]


def pendulum() -> dict:
    "The run on the pendulum."
    return stored("pendulum")["runs"][0]


def nmi(world: str) -> list[float]:
    "Normalised mutual information of the regimes found by IMM, for each seed."
    return [r["smoother"][1] for r in stored("regimes")["runs"] if (r["world"], r["method"]) == (world, "imm")]


def collapse(arm: str) -> tuple[int, int]:
    "How many trainings collapsed, and of how many."
    found = [r["verdict"] for r in stored("collapse_mlp")["runs"] if r["arm"] == arm]
    return found.count("collapsed"), len(found)


def changes(key: str, simulated: bool = False) -> list[float]:
    "Regime changes beside contacts, in per cent, one number for each run of the switching KVAE."
    runs = [
        r for r in stored("switching_box")["runs"] if r["kind"] == "skvae" and (r["data"] == "simulated") == simulated
    ]
    return [100 * r["regimes"]["changes"][key] for r in runs]


REAL = ("carphone_pristine", "bikes")  # a face, a street


def own(film: str, how: str) -> float:
    return stored("own_video")["films"][film]["rms_error"][how]


def short_films(how: str, gap: int) -> tuple[float, float]:
    "Mean error on the square and on the pendulum, grey levels, with the recipe as printed, over the stored seeds."
    rows = [r for r in stored("own_films")["rows"] if r["row"] == "recipe"]
    return tuple(
        float(np.mean([r["test"][str(gap)][how] for r in rows if r["film"] == film])) for film in ("square", "pendulum")
    )


def short_seeds() -> int:
    "With how many seeds the square and the pendulum were trained, each."
    rows = [r for r in stored("own_films")["rows"] if r["row"] == "recipe"]
    square, pendulum = (sum(r["film"] == film for r in rows) for film in ("square", "pendulum"))
    assert square == pendulum
    return square


# --- time


def hours(runs: list[dict]) -> float:
    "Mean training time."
    return float(np.mean([r["train_seconds"] for r in runs])) / 3600


def minutes(runs: list[dict]) -> list[float]:
    return [r["train_seconds"] / 60 for r in runs]


def all_minutes(name: str, *keys: str) -> float:
    "All durations of these names in a result file."

    def find(v):
        if isinstance(v, list):
            return sum(map(find, v))
        return sum(x if k in keys else find(x) for k, x in v.items()) if isinstance(v, dict) else 0

    return find(stored(name)) / 60


def routes(on_gpu: bool = False) -> int:
    "How many back ends there are."
    return len([b for b in BACKENDS if (b == "gpu") == on_gpu])


def routes_timed() -> int:
    "How many routes the stored table of times in notebook 28 has."
    cells = json.loads((ROOT / "nbs" / "28_routes.ipynb").read_text(encoding="utf-8"))["cells"]
    printed = "".join(t for c in cells for o in c.get("outputs", []) for t in o.get("text", []))
    lines = re.findall(r"^ *evidence .*$", printed, re.M)
    return len({name for line in lines for name in BACKENDS if re.search(rf"\b{name}\b", line)})
