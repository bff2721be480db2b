"""Where each number in README, index, the results page and experiments/README comes from.

`CLAIMS` are sentences with a `{}` for each number, beside the values, computed from experiments/results/*.json. `FACTS`
are sentences without such numbers (superlatives, "everywhere", "not met"), beside a condition. `NO_MEASUREMENT` lists
the remaining numbers, each with the reason why no result can contradict it. `tests/test_claims.py` compares.
"""

from typing import Callable, NamedTuple

import numpy as np
import results as of
from results import EPOCHS, FIVE, GAPS, POINTS, ROWS, best, budget, errors, fresh, levers, probes, published, spread


class About(NamedTuple):
    'A number that a sentence gives roughly ("about half an hour", "twice"): every value may be off by this share.'

    value: object
    share: float = 0.2


class Claim(NamedTuple):
    "A sentence with `{}` for each number, and what the results give for them, in this order."

    sentence: str
    values: Callable[[], tuple]


class Fact(NamedTuple):
    "A sentence, and whether the results bear it out."

    sentence: str
    holds: Callable[[], bool]


README = [
    Claim("in gaps of {} frames the squared distance", lambda: (of.hidden_steps(),)),
    Claim(
        "in units of its covariance, is {}, {}, {} and {} times what it should be in the {} worlds",
        lambda: (*map(of.distance, ("box", "gravity", "polygon", "pong")), len(probes())),
    ),
    Claim("`best` for about {} an hour", lambda: (About(of.hours(best())),)),
    Claim("`kvae train --preset best --data …` takes about {} an hour", lambda: (About(of.hours(best())),)),
    Claim(
        "in gaps of {} frames, the error is {} and {} grey levels (mean of {} seeds), "
        "and {} and {} by interpolating pixels",
        lambda: (7, *of.short_films("smoothing", 7), of.short_seeds(), *of.short_films("pixel_interpolation", 7)),
    ),
    Claim(
        "in gaps of one frame it is {} and {}, and {} and {}.",
        lambda: (*of.short_films("smoothing", 1), *of.short_films("pixel_interpolation", 1)),
    ),
    Claim(
        "on {} real films, of a face and of a street, it was {} and {}, and interpolating was much better ({} and {})",
        lambda: (
            len(of.stored("own_video")["films"]) - 1,
            *(of.own(f, "smoothed") for f in of.REAL),
            *(of.own(f, "straight line") for f in of.REAL),
        ),
    ),
    Claim("and by {} [particles]", lambda: ({r["particles"] for r in of.particles().values()}.pop(),)),
    Claim("never trained on ({} of 5000)", lambda: (best()[0]["sequences"],)),
    Claim("small budget of the preset `demo` ({} epochs)", lambda: (len(budget("kvae")[0][EPOCHS]),)),
    Claim(
        "at a gap of 7 its error is {} (one seed), beside {} ± {} (mean and standard deviation of {} seeds)",
        lambda: (*errors(of.vae_rnn(), "filtering"), *spread(budget("kvae"), "filtering"), len(budget("kvae"))),
    ),
    Claim(
        "in the mean of {} seeds, by filtering at every gap and by smoothing up to gaps of {}",
        lambda: (len(budget("skvae")), of.switching_below("smoothing")),
    ),
    Claim(
        "at nine it is level with them ({} against {}, standard deviation between seeds {})",
        lambda: (
            spread(budget("skvae"), "smoothing", 9)[0],
            published("smoothing", "gap", 9),
            spread(budget("skvae"), "smoothing", 9)[1],
        ),
    ),
    Claim(
        "Its regimes change at {} to {} % of the contacts with a wall, and {} to {} % of the changes are contacts",
        lambda: tuple(f(of.changes(key)) for key in ("recall", "precision") for f in (min, max)),
    ),
    Claim(
        "where {} % would be by chance (on films of our own simulator, one run: {} % and {} %)",
        lambda: (About(of.changes("chance"), 0.05), *of.changes("recall", True), *of.changes("precision", True)),
    ),
    Claim(
        "normalised mutual information with the true ones is {} and {} ({} seeds)",
        lambda: (np.mean(of.nmi("ball")), np.mean(of.nmi("three modes")), len(of.nmi("ball"))),
    ),
    Claim("With a constant β of 1, {} of {} trainings", lambda: of.collapse("constant")),
    Claim("with an annealed β none of {} did", lambda: of.collapse("annealed")[1:]),
    Claim("| {} routes on the CPU and one on the GPU to the same numbers", lambda: (of.routes(),)),
    Claim("times the {} routes on the CPU", lambda: (of.routes_timed(),)),
    Claim("short films filled in, and {} films from a cold start", lambda: (len(of.stored("own_video")["films"]),)),
]

RESULTS_PAGE = [
    Claim(
        "Here {} trainings under the other split fill in the same {} films twice",
        lambda: (len(of.particles()), of.particles()["0"]["films"]),
    ),
    Claim(
        "films twice: in that way, and by {} [particles]",
        lambda: ({r["particles"] for r in of.particles().values()}.pop(),),
    ),
    Claim("(5000 of 20 frames; {} of them held out", lambda: (best()[0]["sequences"],)),
    Claim("on the same {} films; its band", lambda: (of.stored("limits")["sequences"],)),
    Claim(
        "is log p(x) when the engine's rule is known, about {}.",
        lambda: (of.stored("limits")["log_evidence"]["per_frame"],),
    ),
    Claim(
        "The ratios lie between {} and {}, and their mean is {}",
        lambda: tuple(f(of.fresh_over_chosen()) for f in (min, max, np.mean)),
    ),
    Claim(
        "the same number of states ({}) and of mixed systems ({})",
        lambda: tuple(About(of.lever_settings(k), 0) for k in ("dim_z", "K")),
    ),
    Claim("{} trainings that differ in the encoder", lambda: (len(levers()),)),
    Claim("is a density over {} pixels in units", lambda: (of.stored("pendulum")["data"]["size"] ** 2,)),
    Claim("The pendulum's bound is a density of {} pixels", lambda: (of.stored("pendulum")["data"]["size"] ** 2,)),
    Claim(
        "by the paper's generator have 20 frames, so their truth is known for {}.",
        lambda: (len(probes()["box"]["sampled"]["error"]),),
    ),
    Claim(
        "With {} % of the frames dropped: the goal is {}, the limit {}",
        lambda: (100 * of.tightest(), *(f("filtering", "drop", of.tightest()) for f in (of.goal, of.limit))),
    ),
    Claim(
        "**missed** by {} nats by the best of {} seeds, and by {} nats by the worst",
        lambda: (-2 - max(of.bounds()), len(best()), -2 - min(of.bounds())),
    ),
    Claim(
        "the bound and {} of the {} errors in gaps are better than in the first row",
        lambda: (int((of.lever_gaps()[2] < of.lever_gaps()[0]).sum()), of.lever_gaps()[0].size),
    ),
    Claim(
        "That run also had {} epochs instead of {}, and a weight that begins at {}",
        lambda: (
            of.lever_settings("epochs")[2],
            of.lever_settings("epochs")[0],
            of.lever_settings("reconstruction_weight")[2] / of.lever_settings("beta")[2][0],
        ),
    ),
    Claim("and judged on the {} held-out films of this table", lambda: (best()[0]["sequences"],)),
    Claim(
        "*of the same budget* beside them had {} epochs too, and {} seeds",
        lambda: (len(budget("kvae")[0][EPOCHS]), len(budget("kvae"))),
    ),
    Claim(
        "{} against {} ± {} at a gap of 7. It also does better",
        lambda: (*errors(of.vae_rnn(), "filtering"), *spread(budget("kvae"), "filtering")),
    ),
    Claim("*Goals met* counts the {} points of Fig. 3", lambda: (len(POINTS),)),
    Claim(
        "drives a pendulum; {} films of {} frames to learn from, {} to validate, {} to test",
        lambda: (
            of.pendulum()["sequences"][0],
            of.stored("pendulum")["data"]["steps"],
            *of.pendulum()["sequences"][1:],
        ),
    ),
    Claim("While {} frames are missing", lambda: (of.hidden_steps(),)),
    Claim(
        "in the box, drawn at whole pixels, every {} frame or so is not sound", lambda: (About(1 - of.sound("box")),)
    ),
    Claim("(rows *a*, at most {})", lambda: (max(of.velocities_from_a()),)),
    Claim("on two standard problems, mean of {} seeds", lambda: (len(of.nmi("ball")),)),
    Claim(
        "{} trainings with β = 1 from the start, and {} in which β rises slowly",
        lambda: (of.collapse("constant")[1], of.collapse("annealed")[1]),
    ),
    Claim("velocities with {} to {}", lambda: tuple(f(of.read_from_z(slice(2, 4))) for f in (min, max))),
    Claim("In gaps the filter is within a {} of the limit", lambda: (About(of.over_limit("filtering").max() - 1),)),
    Claim(
        "so the bound falls by $256 \\log 255 \\approx {}$ nats a frame, to about ${}$",
        lambda: (256 * np.log(255), About(of.pendulum()["elbo"]["learned"]["per_frame"] - 256 * np.log(255), 0.01)),
    ),
]

EXPERIMENTS = [
    Claim("every point of its Fig. 3 | {} minutes |", lambda: tuple(of.minutes([of.stored("paper_box")]))),
    Claim(
        "{} seeds until they come alive, and how many epochs that takes | {} minutes |",
        lambda: (len(of.stored("start_paper")["seeds"]), of.stored("start_paper")["duration_s"] / 60),
    ),
    Claim("the same for the demo preset | {} minutes |", lambda: (of.stored("start_demo")["duration_s"] / 60,)),
    Claim(
        "about equal training time ({}, {} and {} seconds)",
        lambda: tuple(a["train_seconds"] for a in of.stored("decode_frames")["arms"]),
    ),
    Claim("(16×16 pixels) | {} minutes of training |", lambda: (of.all_minutes("decode_frames", "train_seconds"),)),
    Claim("with their standard errors | {} minutes |", lambda: (of.stored("limits")["seconds"] / 60,)),
    Claim("({} seeds stored) | about {} an hour a seed |", lambda: (len(best()), About(of.hours(best())))),
    Claim(
        "no setting was chosen on ({} seeds stored) | {} and {} minutes, the second",
        lambda: (len(fresh()), *of.minutes(fresh())),
    ),
    Claim(
        "simulator's worlds | about {} an hour each |",
        lambda: (About(of.hours([r for w in ("gravity", "polygon", "pong") for r in best(w)]), 0.25),),
    ),
    Claim(
        "baselines of Fig. 3 | {} and {} minutes |",
        lambda: (*of.minutes(of.films(method="AE-RNN")), *of.minutes(of.vae_rnn())),
    ),
    Claim("stores its whole command | {} minutes each |", lambda: (About(of.minutes(levers()[:2]), 0.05),)),
    Claim(
        "position and velocity in z | about {} minutes each |",
        lambda: (About(np.mean([m["seconds"] for m in probes().values()]) / 60),),
    ),
    Claim(
        "regimes learned from observations, {} seeds, {} methods and the true model | {} minutes |",
        lambda: (
            len(of.nmi("ball")),
            len({r["method"] for r in of.stored("regimes")["runs"]} - {"true model"}),
            of.all_minutes("regimes", "seconds"),
        ),
    ),
    Claim(
        "same budget, {} seeds; regimes beside contacts | {} minutes |",
        lambda: (len(budget("kvae")), sum(of.minutes(budget("kvae") + budget("skvae")))),
    ),
    Claim("the torque's use; one seed | {} minutes |", lambda: tuple(of.minutes([of.pendulum()]))),
    Claim(
        "{} seeds with and without annealing: how many collapse | {} minutes |",
        lambda: (of.collapse("constant")[1], of.all_minutes("collapse_mlp", "seconds")),
    ),
    Claim(
        "a training killed {} times, a full disk, two runs at once, other versions, {} seeds in {} worlds",
        lambda: (
            of.stored("trust")["kills"]["kills"],
            *(f(of.stored("trust")["worlds"]) for f in (lambda w: w["seeds"], lambda w: len(w["worlds"]))),
        ),
    ),
    Claim("its own command and counts | {} minutes |", lambda: (of.all_minutes("trust", "duration_s"),)),
    Claim(
        "source are in the script | {}, {} and {} minutes |",
        lambda: tuple(
            of.stored("own_video")["films"][f]["seconds"] / 60 for f in ("carphone_pristine", "desk", "bikes")
        ),
    ),
    Claim("On the {} held-out films", lambda: (of.stored("limits")["sequences"],)),
    Claim(
        "filtering error is {}, {}, {}, {} and {} for gaps of 1, 3, 7, 11 and 15 frames",
        lambda: tuple(of.limit("filtering", "gap", n) for n in FIVE),
    ),
    Claim(
        "smoothing error {}, {}, {}, {} and {} (standard errors",
        lambda: tuple(of.limit("smoothing", "gap", n) for n in FIVE),
    ),
    Claim(
        "the highest log p(x) on average is {} ± {} nats per frame (on {} films; in {} the search found no "
        "motion that fits)",
        lambda: (
            *(of.stored("limits")["log_evidence"][k] for k in ("per_frame", "standard_error", "sequences")),
            of.stored("limits")["sequences"] - of.stored("limits")["log_evidence"]["sequences"],
        ),
    ),
]

CLAIMS = README + RESULTS_PAGE + EXPERIMENTS

FACTS = [
    Fact(
        "In the longest gaps particles halve the error of smoothing; filtering gains little",
        lambda: (
            all(of.by_particles("smoothing", "gap", n) < 0.53 for n in (13, 15))
            and all(0.9 < of.by_particles("filtering", "gap", n) < 1.02 for n in GAPS)
        ),
    ),
    Fact("by smoothing it is met in gaps of 13 frames only", lambda: of.thirds_met() == [("gap", "13")]),
    Fact(
        "particles are at least as good as plugging in at every point",
        lambda: all(of.by_particles("smoothing", *k) <= 1 for k in of.POINTS),
    ),
    Fact("lies below the published curves in the mean of", lambda: of.switching_below("filtering") == GAPS[-1]),
    Fact(
        "The preset `best` filters better than both",
        lambda: all(of.better(best(), r) for r in (of.vae_rnn(), budget("kvae"))),
    ),
    Fact("lie below the published ones (dashed) at every point and for every seed", lambda: of.below(best())),
    Fact("at every point of figure 3, for all three seeds", lambda: len(best()) == 3 and of.below(best())),
    Fact("and on films that no choice was made on as well", lambda: of.below(fresh())),
    Fact(
        "on films that no choice was made on the preset is about as good, and at every point below what was published",
        lambda: abs(np.mean(of.fresh_over_chosen()) - 1) < 0.05 and of.below(fresh()),
    ),
    Fact("**They are not met** in any row", lambda: all(errors(best(), *r).mean() > of.goal(*r) for r in ROWS)),
    Fact(
        "By filtering they turned out to be below the limit in gaps",
        lambda: not any(of.possible("filtering", "gap", n) for n in GAPS),
    ),
    Fact(
        "In the other rows they are above it, and possible",
        lambda: all(of.possible(*r) for r in ROWS if r[:2] != ("filtering", "gap")),
    ),
    Fact("The smoother is at several times its limit", lambda: of.over_limit("smoothing").min() > 2.5),
    Fact(
        "over the last five epochs it moves in the second decimal",
        lambda: all(
            len(r["last_valid_elbo_per_frame"]) == 5 and np.ptp(r["last_valid_elbo_per_frame"]) < 0.1 for r in best()
        ),
    ),
    Fact(
        "With the preset `paper`, whose learning rate falls less, it still jumps by more than one",
        lambda: np.ptp(of.stored("paper_box")[EPOCHS][-5:]) > 1,
    ),
    Fact("more weight on the pixels gives the better bound and the worse gaps", of.pixels_cost_gaps),
    Fact("With [key points](04_vae.ipynb) $a$ is straighter", of.points_help),
    Fact(
        "**With the same budget the VAE-RNN filters better than the Kalman VAE**",
        lambda: of.better(of.vae_rnn(), budget("kvae")),
    ),
    Fact(
        "With the same small budget a VAE-RNN filters better than the Kalman VAE",
        lambda: of.better(of.vae_rnn(), budget("kvae")),
    ),
    Fact("It also does better than the published one", lambda: max(of.against_published("VAE-RNN", "vae_rnn")) < 0),
    Fact("Our AE-RNN does worse than the published one", lambda: min(of.against_published("AE-RNN", "ae_rnn")) > 0),
    Fact(
        "The preset `best` does better than all of them",
        lambda: all(of.better(best(), r) for r in (of.vae_rnn(), of.films(method="AE-RNN"), budget("kvae"))),
    ),
    Fact(
        "three of the four worlds of our own simulator meet them all",
        lambda: (
            sorted(
                of.goals_met(how, best(w))
                for how in ("smoothing", "filtering")
                for w in ("box", "gravity", "polygon", "pong")
            )[1:]
            == [18] * 7
        ),
    ),
    Fact(
        "the polygon all by filtering and two thirds of them by smoothing",
        lambda: [of.goals_met(how, best("polygon")) for how in ("filtering", "smoothing")] == [18, 12],
    ),
    Fact(
        "its covariances are too large under gravity and in pong, and too small in the polygon at 90 and 99 %",
        lambda: (
            all((of.inside(w, "filtered") > (0.5, 0.9, 0.985)).all() for w in ("gravity", "pong"))
            and (of.inside("polygon", "filtered")[1:] < (0.9, 0.99)).all()
        ),
    ),
    Fact(
        "The smoother's are too small at 90 and 99 % in all four worlds",
        lambda: len(probes()) == 4 and all((of.inside(w, "smoothed")[1:] < (0.9, 0.99)).all() for w in probes()),
    ),
    Fact(
        "Gravity and the polygon stay sound to the end; pong is about as sound as its data",
        lambda: (
            min(of.sound(w, slice(-25, None)) for w in ("gravity", "polygon")) > 0.99
            and abs(of.sound("pong") - probes()["pong"]["sampled"]["sound_data"]) < 0.03
        ),
    ),
    Fact("Positions of the balls are read from $z$ with an R² above .97", lambda: min(of.read_from_z(slice(2))) > 0.97),
]

# What no result of experiments/ can contradict: patterns, and why.
REASONS = {
    "what is drawn": [
        r"its band is twice the standard error",
        r"two panels",
        r"three test films",
        r"mean over eleven frames",
        r"Four films that the model drew",
        r"four films drawn",
        r"drawn at twelve moments",
        r"Three rows of frames",
        r"four of six are hidden",
        r"seven films of which it saw four frames",
    ],
    "scales of what is measured": [
        r"(?<=\()1 is all",
        r"1 is perfect",
        r"50 % ellipse half of the time",
        r"90 and 99 %",
        r"grey from 0 to 1\b",
        r"counted from 0 to 255",
        r"\b255 times",
        r"256 \\log 255",
    ],
    "words": [
        r"once by drawing and once by",
        r"path, once\.",
        r"beside two fillers",
        r"Three scores",
        r"first three rows",
        r"Two commands",
        r"each verb once",
        r"all steps at once",
        r"done once\.",
        r"two runs at once",
        r"in six steps",
        r"sequences at once",
    ],
    "an address, a year, a figure of the paper": [
        r"\barXiv:\d{4}\.\d{5}",
        r"\b(?:Winther|et al\.) 20\d\d",
        r"\b(?:Fig\.|figure) 3\b",
    ],
    "names and versions": [r"TensorFlow 1\b", r"Python 3\.11 to 3\.13", r"x86-64"],
    "the number of an exercise, of a solution, of a notebook": [
        r"^\d\. ",
        r"\*\*[1-6]\. (?:Two numbers)?",
    ],
    "the error of digitising, estimated by who did it": [r"\(error about ±\.0003\)", r"\(±\.0003\)"],
    "the size of the model, of a frame, of a data set": [
        r"frame into two numbers,",
        r"What matters are two numbers",
        r"two numbers evolve",
        r"two numbers out of a thousand pixels",
        r"have 20 frames",
        r"\b5000 of 20 frames",
        r"of 5000\)",
        r"5000 of each",
        r"5000 videos",
        r"\[5000, 20, 32, 32\]",
        r"250 for validation",
    ],
    "settings of a run or a mask": [
        r"four frames out of every twelve",
        r"a constant β of 1",
        r"with β = 1",
        r"all weights 1",
        r"with seed 0",
        r"\bseed 0\b",
        r"with 20 epochs and one seed",
        r"2, 5 and 20 decoded frames of 20 \(16×16 pixels\)",
        r"a ball loses a tenth of its speed",
    ],
    "advice, in settings of the command": [],
    "what a sentence speaks of, not what was found": [
        r"at a gap of 7\b",
        r"at nine it is",
        r"first exceeds \.0178, the published filtering error of a gap of seven frames",
        r"gaps of 1, 3, 7, 11 and 15 frames",
        r"four worlds",
        r"three-mode",
        r"four frames",
        r"two hundred frames generated from four",
        r"Two hundred frames from four",
        r"200 generated frames",
        r"on two standard problems",
    ],
    "goals": [
        r"a third of the published error by smoothing and half of it by filtering",
        r"the goal was −2",
        r"at most a third, and filtering at most half",
        r"a third by smoothing and half by filtering",
    ],
}
NO_MEASUREMENT = [pattern for patterns in REASONS.values() for pattern in patterns]
