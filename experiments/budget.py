"""An error budget: one part after the other of the trained preset `best` is replaced by its oracle.

    python experiments/budget.py --data ../shared/data/box.npz --runs RUN RUN RUN    # some minutes a run, one CPU core

The runs are of split 1 (experiments/fresh.py trains them); what is measured are the test films of that split that are
neither test nor validation films of split 0. In these videos the ball is drawn at whole pixels, so a frame says only in
which cell of the pixel grid the ball was, all frames of a cell are the same picture, and the encoder is a table of one
a per cell. An affine map, fitted over the training films, takes positions in pixels to a and back. The parts:

- inference: particles (`impute(particles=…)`) in the place of plugged-in weights;
- decoder: the smoothed law of a is taken back to pixels, and the ball is drawn at rounded positions, as it was;
- dynamics, still linear: the engine's rule, told at every step where the ball touches a wall, with the model's encoder
  and decoder or with straight ones;
- encoder: a is the true position, not the middle of the cell;
- dynamics and inference: the engine's own rule, exactly (experiments/limits.py), with the model's encoder and decoder;
- noise: experiments/levers.py (`noise`, `noise_of_modes`).

Writes experiments/results/budget.json.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from fresh import fresh_films, parts, ratio
from limits import DT, HIGH, LOW, PUSH, RADIUS, SLOP, cells_of, possible
from torch import Tensor

from kvae_nb.core.files import atomic_write
from kvae_nb.data.films import mask_gap
from kvae_nb.data.opening import open_data
from kvae_nb.evaluation.checks import FIRST
from kvae_nb.evaluation.imputation import drop_mask
from kvae_nb.inference.batched import loop_filter, observe, rts_smoother
from kvae_nb.inference.lgssm import LGSSM
from kvae_nb.models.dynamics import evidence_dynamics, filter_dynamics
from kvae_nb.training.runs import load_run

RESULT = Path(__file__).parent / "results" / "budget.json"
SHOWN = ("gap 1", "gap 7", "gap 15", "drop .5")
FEW = 120  # films for particles and the engine's rule, which take longest
GRID = 32  # cells of the pixel grid along an axis


HOW = ("smoothing", "filtering")


class Films(NamedTuple):
    "Videos of the box by the published generator."

    cells: Tensor  # [films, time, 2]: the cell in which the ball is drawn
    points: Tensor  # [films, time, 2]: where it is, in pixels; the cell is this rounded down
    frames: Tensor  # [films, time, 32, 32], bool

    def masks(self, names) -> dict[str, Tensor]:
        "Which frames are seen, by the name of the mask."
        n, steps = self.cells.shape[:2]
        kinds = {"gap": lambda v: mask_gap(n, steps, FIRST, int(v)), "drop": lambda v: drop_mask(n, steps, float(v))}
        return {name: kinds[name.split()[0]](name.split()[1]) for name in names}


class Table(NamedTuple):
    "The encoder and the generator's pictures, by cell."

    mean: Tensor  # [32, 32, 2] of q(a|x)
    sd: Tensor  # [32, 32, 2]
    images: Tensor  # [32, 32, 32, 32], bool
    affine: Tensor  # [3, 2]: takes (x, y, 1) in pixels to a


def open_films(path: str, config) -> dict[str, Films]:
    "Films to train on, to choose by, and to report on."
    whole = open_data(config)
    state = whole.state.double().numpy()
    points = np.concatenate([state[:, :1, :2] - DT * state[:, :1, 2:], state[:, :-1, :2]], 1)
    everything = first_cells(
        Films(torch.tensor(cells_of(state)), torch.tensor(points).float(), whole.frames[:, :, 0] > 127)
    )
    train, valid, _ = (torch.tensor(sorted(part)) for part in parts(config, len(whole), config.split_seed))
    chosen = {"train": train, "valid": valid, "report": fresh_films(config, len(whole))}
    return {name: Films(*(v[index] for v in everything)) for name, index in chosen.items()}


def first_cells(films: Films) -> Films:
    "The same, where the first frame's position, counted back from the second, would be behind a wall: as drawn."
    flat = films.frames[:, :1].flatten(2).float()
    wrong = (pictures(films)[films.cells[:, 0].clamp(0, GRID - 1).unbind(1)] != films.frames[:, 0]).flatten(1).any(1)
    cells, points = films.cells.clone(), films.points.clone()
    at = torch.stack(torch.meshgrid(*[torch.arange(GRID)] * 2, indexing="ij"), -1).flatten(0, 1)
    known = pictures(films).flatten(0, 1).flatten(1).float()
    cells[wrong, 0] = at[torch.cdist(flat[wrong, 0], known).argmin(1)]
    points[wrong, 0] = cells[wrong, 0] + 0.5
    return Films(cells, points, films.frames)


def pictures(*films: Films) -> Tensor:
    "The picture of each cell; empty where none was ever drawn."
    images = torch.zeros(GRID, GRID, GRID, GRID, dtype=torch.bool)
    for some in films:
        x, y = some.cells[:, 1:].flatten(0, 1).clamp(0, GRID - 1).T  # the first frame's cell is not recorded
        images[x, y] = some.frames[:, 1:].flatten(0, 1)
    return images


@torch.no_grad()
def encode_table(model, films: dict[str, Films]) -> Table:
    "Encoder and pictures by cell, and the affine map fitted over the training films."
    images, train = pictures(*films.values()), films["train"]
    q = model.encoder(images.flatten(0, 1)[:, None, None].float())
    mean, sd = (v[:, 0].unflatten(0, (GRID, GRID)) for v in (q.mean, q.var.sqrt()))
    x, y = train.points.flatten(0, 1), gather(mean, train.cells).flatten(0, 1)
    return Table(mean, sd, images, torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1)], 1), y).solution)


def gather(table, cells: Tensor):
    "What a table, or one of its parts, holds for these cells."
    if isinstance(table, Table):
        return gather(table.mean, cells), gather(table.sd, cells)
    x, y = cells.clamp(0, GRID - 1).unbind(-1)
    return table[x, y]


def to_a(table: Table, points: Tensor) -> Tensor:
    "Positions in pixels as a."
    return points @ table.affine[:2] + table.affine[2]


def to_points(table: Table, a: Tensor) -> Tensor:
    "Back."
    return (a - table.affine[2]) @ torch.linalg.inv(table.affine[:2])


def shares(frames: Tensor, films: Films, mask: Tensor) -> dict:
    "The share of wrong pixels of the hidden frames, given as rows, with its standard error over films."
    wrong = torch.zeros(mask.shape, dtype=torch.double)
    made = frames.flatten(1) > 0.5
    wrong[~mask] = (made != films.frames[~mask].flatten(1)).double().mean(1)
    return ratio(wrong.sum(1).numpy(), (~mask).sum(1).double().numpy())


def plug(dynamics, a: Tensor, mask: Tensor):
    "The noise-free a, smoothed and filtered, with plugged-in weights."
    run = filter_dynamics(dynamics, a, mask)
    whole = rts_smoother(run.system, run.filtered)
    seen = lambda mean, cov: observe(run.system, mean, cov, noise=False)
    return seen(whole.mean, whole.cov), seen(run.filtered.mean, run.filtered.cov)


def draw_law(table: Table, mean: Tensor, cov: Tensor, draws: int = 200) -> Tensor:
    "The expected picture of a ball whose a is Gaussian, drawn at rounded positions: rows of frames."
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(draws, 2, generator=g)
    root = torch.linalg.cholesky(cov.double() + 1e-9 * torch.eye(2)).float()
    at = to_points(table, mean[:, None] + torch.einsum("rij,nj->rni", root, noise)).floor().long()
    at = at.clamp(int(LOW + RADIUS) - 1, int(HIGH - RADIUS))  # where the walls let the ball be
    images = table.images.flatten(0, 1).float().flatten(1)
    index = at[..., 0] * GRID + at[..., 1]
    counts = torch.zeros(len(mean), GRID * GRID).scatter_add_(1, index, torch.full(index.shape, 1 / draws))
    drawn = images.any(1)
    return (counts[:, drawn] @ images[drawn]).unflatten(1, (GRID, GRID))


@torch.no_grad()
def with_parts(dynamics, model, table: Table, films: Films, points: bool = False, draw: bool = False) -> dict:
    "Wrong pixels with true positions for the encoder's a, or the ball drawn for the decoder, plugged-in weights."
    a, found = to_a(table, films.points) if points else gather(table.mean, films.cells), {}
    for name, mask in films.masks(SHOWN).items():
        found[name] = {}
        for how, law in zip(("smoothing", "filtering"), plug(dynamics, a, mask)):
            mean, cov = law.mean[~mask], law.cov[~mask]
            made = draw_law(table, mean, cov) if draw else model.decode(mean)
            found[name][how] = shares(made, films, mask)
    return found


def true_modes(films: Films, R: float = 0.1, Q: float = 1e-4) -> tuple[LGSSM, Tensor]:
    """The engine's rule in pixels, state (x, y, vx, vy), and the constant control that brings in the walls: linear once
    it is known where the ball touches a wall, and told so by the true positions.
    """
    high, low = films.points + RADIUS - HIGH, LOW + RADIUS - films.points
    way = films.points.diff(dim=1)
    turn, pushed = torch.ones_like(high), torch.zeros_like(high)
    turn[:, 1:] = torch.where((high[:, 1:] > 0) & (way > 0) | (low[:, 1:] > 0) & (way < 0), -1.0, 1.0)
    pushed[:, 1:] = torch.where((high > SLOP) | (low > SLOP), PUSH, 0.0)[:, :-1]
    wall = torch.where(high > low, HIGH - RADIUS + SLOP, LOW + RADIUS - SLOP)
    A = torch.eye(4).repeat(*turn.shape[:2], 1, 1)
    A[..., (0, 1), (0, 1)], A[..., (0, 1), (2, 3)], A[..., (2, 3), (2, 3)] = 1 - pushed, torch.ones_like(turn), turn
    B = torch.zeros(*turn.shape[:2], 4, 1)
    B[:, 1:, :2, 0] = pushed[:, 1:] * wall[:, :-1]
    C = torch.cat([torch.eye(2), torch.zeros(2, 2)], 1)[None]
    cov1 = torch.diag(torch.tensor([60.0, 60.0, 4.0, 4.0]))
    Q, R = Q * torch.eye(4)[None], R * torch.eye(2)[None]
    return LGSSM(A, B, C, Q, R, torch.tensor([16.0, 16.0, 0.0, 0.0]), cov1), torch.ones(*turn.shape[:2], 1)


@torch.no_grad()
def with_true_modes(model, table: Table, films: Films, straight: bool = False) -> dict:
    """Wrong pixels if the dynamics are linear and told at every step, seen or hidden, where the ball touches a wall;
    with the model's encoder and decoder, or straight ones: the middle of the cell, and the ball drawn.
    """
    at = films.cells + 0.5 if straight else to_points(table, gather(table.mean, films.cells))
    (system, u), found = true_modes(films, 1 / 12 if straight else 0.1), {}
    for name, mask in films.masks(SHOWN).items():
        run, found[name] = loop_filter(system, at, mask, u), {}
        for how, law in zip(HOW, (rts_smoother(system, run), run)):
            mean, cov = law.mean[~mask][:, :2], law.cov[~mask][:, :2, :2]
            M = table.affine[:2].T
            made = draw_law(table, to_a(table, mean), M @ cov @ M.T) if straight else model.decode(to_a(table, mean))
            found[name][how] = shares(made, films, mask)
    return found


@torch.no_grad()
def by_particles(model, films: Films, particles: int) -> dict:
    "Wrong pixels by the library's particles."
    found, x = {}, films.frames[:, :, None].float()
    for name, mask in films.masks(SHOWN).items():
        parts = [model.impute(x[i], mask[i], particles=particles) for i in torch.arange(len(x)).split(64)]
        found[name] = {
            how: shares(torch.cat([getattr(p, kind).frames for p in parts])[~mask], films, mask)
            for how, kind in (("smoothing", "smoothed"), ("filtering", "filtered"))
        }
    return found


def cell_weights(paths, t: int) -> Tensor:
    "The probability of every cell at t under weighted paths; NaN where no path was found."
    if paths is None:
        return torch.full((GRID * GRID,), torch.nan)
    index = np.clip(paths.x[t], 0, GRID - 1) * GRID + np.clip(paths.y[t], 0, GRID - 1)
    return torch.zeros(GRID * GRID).scatter_add_(0, torch.tensor(index), torch.tensor(paths.weight).float())


def engine(films: Films, mask: Tensor) -> dict[str, Tensor]:
    "Probabilities of the cells of hidden steps under the engine's rule, exactly: rows of cells."
    found = {how: [] for how in HOW}
    for k, seen in enumerate(mask.numpy()):
        rng, cells = np.random.default_rng(k), films.cells[k].numpy()
        whole, before, past = possible(cells, np.flatnonzero(seen).tolist(), rng), None, None
        for t in np.flatnonzero(~seen):
            if (now := np.flatnonzero(seen[:t]).tolist()) != before:
                before, past = now, possible(cells, now, rng)
            for how, paths in zip(HOW, (whole, past)):
                found[how].append(cell_weights(paths, t))
    return {how: torch.stack(rows) for how, rows in found.items()}


def shares_known(weights: Tensor, pictured: Tensor, films: Films, mask: Tensor) -> dict:
    "`shares` of expected pictures; a frame without a start counts as not hidden."
    lost, seen = weights.isnan().any(1), mask.clone()
    seen[~mask] = lost
    some = (~seen).any(1)
    return shares(weights[~lost] @ pictured, Films(*(v[some] for v in films)), seen[some])


@torch.no_grad()
def by_engine(models: dict, films: Films) -> dict:
    "Wrong pixels under the engine's rule, the pictures drawn by each model's decoder or by the generator (`None`)."
    pictured = {}
    for name, (model, table) in models.items():
        made = table.images if model is None else model.decode(table.mean.flatten(0, 1))
        pictured[name] = made.float().reshape(GRID * GRID, -1)
    rows = {name: {} for name in models}
    for which, mask in films.masks(SHOWN).items():
        weights = engine(films, mask)
        for name in models:
            rows[name][which] = {how: shares_known(weights[how], pictured[name], films, mask) for how in HOW}
    return rows


def near_bounce(films: Films, within: int = 2) -> Tensor:
    "Whether the ball turns along an axis within so many steps of a frame: [films, time]."
    v = films.points.diff(dim=1)
    turn = torch.zeros(films.points.shape[:2])
    turn[:, 1:-1] = (v[:, 1:] * v[:, :-1] < 0).any(-1).float()
    return torch.nn.functional.max_pool1d(turn[:, None], 2 * within + 1, 1, within)[:, 0] > 0


def rms(error: Tensor) -> float:
    "Root mean square along an axis."
    return round(float(error.square().mean().sqrt()), 4)


@torch.no_grad()
def positions(dynamics, table: Table, films: Films) -> dict:
    "Errors in pixels of smoothed positions against the true ones, in free flight and near bounces, and flipped cells."
    a, close = gather(table.mean, films.cells), near_bounce(films)
    found = {"the encoder's a": rms(to_points(table, a) - films.points)}
    for name, mask in {"all seen": torch.ones_like(close), **films.masks(SHOWN)}.items():
        at = to_points(table, plug(dynamics, a, mask)[0].mean)
        where = mask if name == "all seen" else ~mask
        flips = (at.floor().long() != films.cells).any(-1)
        found[name] = {
            label: {
                "frames": int(chosen.sum()),
                "rms": rms((at - films.points)[chosen]),
                "median": round(float((at - films.points)[chosen].abs().median()), 4),
                "wrong cell": round(float(flips[chosen].float().mean()), 4),
            }
            for label, chosen in (("free", where & ~close), ("bounce", where & close))
        }
    return found


def weights_of(dynamics, table: Table, films: Films, mask: Tensor) -> Tensor:
    """How the smoothed position at the hidden frame (the same in all films) follows the a of every frame, the systems
    held fixed: [films, time, 2, 2], in pixels.
    """
    t = int((~mask[0]).nonzero()[0])
    a = gather(table.mean, films.cells)
    with torch.no_grad():
        system = filter_dynamics(dynamics, a, mask).system
    a = a.clone().requires_grad_(True)
    whole = rts_smoother(system, loop_filter(system, a, mask))
    at = to_points(table, observe(system, whole.mean, whole.cov, noise=False).mean[:, t])
    rows = [torch.autograd.grad(at[:, i].sum(), a, retain_graph=True)[0] for i in (0, 1)]
    return torch.stack(rows, -2) @ table.affine[:2].T  # a change of one pixel changes a by a row of the map


def memory(dynamics, table: Table, films: Films) -> dict:
    "What the smoother of one hidden frame makes of its neighbours, and the error that rounding alone would leave."
    mask, close = films.masks(["gap 1"])["gap 1"], near_bounce(films)
    t = int((~mask[0]).nonzero()[0])
    found = {"hidden frame": t}
    for label, chosen in (("free", ~close[:, t]), ("bounce", close[:, t])):
        w = weights_of(dynamics, table, Films(*(v[chosen] for v in films)), mask[chosen])
        power = w.square().sum((-1, -2)) / 2  # per axis
        found[label] = {
            "films": int(chosen.sum()),
            "weights": [round(float(v), 4) for v in w.diagonal(dim1=-2, dim2=-1).mean((0, 2))],
            "effective frames": round(float((1 / power.sum(1)).median()), 2),
            "rounding alone": round(float(0.2887 * power.sum(1).median().sqrt()), 4),
        }
    return found


def best_line(steps: int, t: int) -> float:
    "The error at t of a straight line fitted to all other frames of a film, when only rounding errs."
    s = np.delete(np.arange(steps), t) - t
    design = np.stack([np.ones(len(s)), s], 1)
    return round(float(0.2887 * np.sqrt(np.linalg.inv(design.T @ design)[0, 0])), 4)


@torch.no_grad()
def terms(model, films: Films) -> dict:
    "The parts of the bound per frame."
    torch.manual_seed(0)
    whole = [model(films.frames[i][:, :, None].float()) for i in torch.arange(len(films.cells)).split(50)]
    steps = films.cells.shape[1]
    return {
        name: round(float(torch.cat([getattr(w, name) for w in whole]).double().mean()) / steps, 3)
        for name in ("log_likelihood", "log_prior", "log_posterior")
    }


@torch.no_grad()
def ideal_decoder(dynamics, table: Table, films: Films, widths=(1.0, 1.25, 1.5, 1.75, 2.0)) -> dict:
    """The parts of the bound per frame if the decoder gave each cell its probability given a, under the encoder as it
    is and with its deviation times a width.
    """
    g, used = torch.Generator().manual_seed(0), torch.zeros(GRID, GRID)
    used.index_put_(
        tuple(films.cells.flatten(0, 1).clamp(0, GRID - 1).T), torch.ones(films.cells[..., 0].numel()), True
    )
    known, (mean, sd) = used > 0, gather(table, films.cells)
    noise, found = torch.randn(mean.shape, generator=g), {}
    for width in widths:
        a = mean + width * sd * noise
        q = torch.distributions.Normal(table.mean[known], width * table.sd[known])
        joint = used[known].log() + q.log_prob(a.flatten(0, 1)[:, None]).sum(-1)
        own = torch.distributions.Normal(mean, width * sd).log_prob(a).sum(-1)
        share = used[tuple(films.cells.clamp(0, GRID - 1).unbind(-1))].log() + own
        likelihood = float((share.flatten() - joint.logsumexp(1)).mean())
        prior = float(evidence_dynamics(dynamics, a).mean()) / a.shape[1]
        values = {"log_likelihood": likelihood, "log_prior": prior, "log_posterior": float(own.mean())}
        values["bound"] = likelihood + prior - values["log_posterior"]
        found[str(width)] = {name: round(v, 3) for name, v in values.items()}
    return found


def record(run, films: dict[str, Films], particles: int) -> dict:
    "All rows of one run but those of the engine's rule."
    model, report, started = run.model, films["report"], time.perf_counter()
    table = encode_table(model, films)
    d = model.dynamics
    rows = {
        "as it is": with_parts(d, model, table, report),
        "decoder": with_parts(d, model, table, report, draw=True),
        "encoder": with_parts(d, model, table, report, points=True),
        "encoder and decoder": with_parts(d, model, table, report, points=True, draw=True),
        "true modes": with_true_modes(model, table, report),
        "true modes, straight encoder and decoder": with_true_modes(model, table, report, straight=True),
    }
    print(run.config.train.seed, {k: v["gap 1"]["smoothing"]["mean"] for k, v in rows.items()}, flush=True)
    if particles:
        some = Films(*(v[:FEW] for v in report))
        rows["as it is, few films"] = with_parts(d, model, table, some)
        rows["inference, few films"] = by_particles(model, some, particles)
    bound = terms(model, report)
    return {
        "seed": run.config.train.seed,
        "bound": bound | {"bound": round(bound["log_likelihood"] + bound["log_prior"] - bound["log_posterior"], 3)},
        "ideal decoder, by width of q(a|x)": ideal_decoder(d, table, report),
        "rows": rows,
        "positions": positions(d, table, report),
        "memory": memory(d, table, report),
        "seconds": round(time.perf_counter() - started),
    }


def store(content: dict):
    "Writes the result file, atomically."
    with atomic_write(RESULT) as tmp:
        tmp.write_text(json.dumps(content, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the .npz file of the paper's box generator")
    parser.add_argument("--runs", nargs="+", required=True, help="finished runs of the preset `best` on split 1")
    parser.add_argument("--particles", type=int, default=128, help="of the first run; 0: no row for inference")
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = [load_run(folder) for folder in args.runs]
    films = open_films(args.data, runs[0].config.data)
    name = Path(args.data).name
    content = {
        "command": f"python experiments/budget.py --data {name} --runs {' '.join(['RUN'] * len(runs))}"
        f" --particles {args.particles}",
        "few films": FEW,
        "machine": f"{platform.machine()} CPU, 1 thread",
        "films": len(films["report"].cells),
        "a straight line through all other frames": best_line(films["report"].cells.shape[1], FIRST),
        "runs": [],
    }
    for k, run in enumerate(runs):
        content["runs"].append(record(run, films, 0 if k else args.particles))
        store(content)
    tables = [encode_table(run.model, films) for run in runs]
    models = {str(r.config.train.seed): (r.model, t) for r, t in zip(runs, tables)} | {"limit": (None, tables[0])}
    content["engine"] = by_engine(models, Films(*(v[:FEW] for v in films["report"])))
    store(content)


if __name__ == "__main__":
    main()
