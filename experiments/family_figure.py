"""The README's figure of the one table: hidden frames, forecasts and probabilities, a line for each kind of model.

    python experiments/family_figure.py                                                # seconds

Draws what experiments/results/family.json holds: the mean over seeds, and a line from the best to the worst of them.
Writes nbs/images/family.png.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from shared import stored

from kvae_nb.evaluation.plots import PALETTE, quiet

IMAGE = Path(__file__).parent.parent / "nbs" / "images" / "family.png"
NAMES = {
    "kvae_particles": "KVAE, particles",
    "kvae": "KVAE, plugged in",
    "skvae_particles": "switching KVAE, particles",
    "skvae": "switching KVAE, merged",
    "vae_rnn": "VAE-RNN",
    "ae_rnn": "AE-RNN",
    "dsvae": "DSVAE",
    "dmm": "deep Markov model",
    "srnn": "SRNN",
    "vrnn": "VRNN",
    "iseq": "independent latents",
    "arnn": "recurrent network alone",
    "interpolation": "straight line between pixels",
    "copy_last": "last seen frame again",
    "constant": "mean training frame",
    "limit": "limit",
}
GAP, SOON, LATE = "gap 7", 10, 40  # hidden frames; steps ahead
PANELS = (
    (
        "wrong pixels, gap of 7",
        "share of pixels",
        (0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
        {
            "smoothing": lambda r: r["imputation"][GAP].get("smoothing", {}).get("wrong"),
            "filtering": lambda r: r["imputation"][GAP].get("filtering", {}).get("wrong"),
        },
    ),
    (
        "forecast: the ball is off by",
        "pixels",
        (0.2, 0.5, 1, 2, 5, 10, 20),
        {
            f"{SOON} steps ahead": lambda r: r["forecast"]["distance"][SOON - 1],
            f"{LATE} steps ahead": lambda r: r["forecast"]["distance"][LATE - 1],
        },
    ),
    (
        "log score, gap of 7",
        "nats lost a frame",
        (5, 10, 20, 50, 100, 200, 400),
        {
            "smoothing": lambda r: minus(r["imputation"][GAP].get("smoothing", {}).get("log_score")),
            "filtering": lambda r: minus(r["imputation"][GAP].get("filtering", {}).get("log_score")),
        },
    ),
)


def minus(value: float | None) -> float | None:
    "The loss for a score, if there is one."
    return None if value is None else -value


def draw(ax, rows: list[list[dict]], values: dict, ticks: tuple):
    "A mark for the mean over the seeds of each kind, and a line from the best seed to the worst."
    for (name, value), color, mark, shift in zip(
        values.items(), (PALETTE["smoothing"], PALETTE["filtering"]), "os", (-0.16, 0.16)
    ):
        for y, runs in enumerate(rows):
            found = [v for v in map(value, runs) if v is not None]
            if found:
                ax.plot([min(found), max(found)], [y + shift] * 2, color=color, lw=1.2)
                ax.plot(np.mean(found), y + shift, mark, color=color, ms=4.5)
        ax.plot([], [], mark, color=color, ms=4.5, label=name)
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks], fontsize=8)
    ax.set_xlim(0.8 * ticks[0], 1.2 * ticks[-1])
    ax.minorticks_off()
    ax.grid(color="0.92", lw=0.8)
    ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def main():
    known = stored("family")["runs"]
    rows = {kind: [r for r in known if r["kind"] == kind] for kind in NAMES}
    rows = {kind: runs for kind, runs in rows.items() if runs}
    fig, axes = plt.subplots(1, len(PANELS), figsize=(10, 4.6), dpi=90, layout="constrained", sharey=True)
    for ax, (title, unit, ticks, values) in zip(axes, PANELS):
        draw(ax, list(rows.values()), values, ticks)
        quiet(ax, unit, "", title)
    seeds = {kind: len(runs) for kind, runs in rows.items()}
    axes[0].set_yticks(range(len(rows)), [NAMES[k] + (f" ({n})" if n > 1 else "") for k, n in seeds.items()])
    axes[0].invert_yaxis()
    fig.savefig(IMAGE, metadata={"Software": None})


if __name__ == "__main__":
    main()
