"""Oracles of the measures of models of someone: planted models, closed forms, simulation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn import functional as F

from kvae_nb.core.errors import InputError
from kvae_nb.data.factors import Factor, character
from kvae_nb.data.films import VideoData
from kvae_nb.evaluation import codes, judge, swaps
from kvae_nb.evaluation.plots import plain
from kvae_nb.models.factors import Factors, Swapped
from kvae_nb.models.protocol import Posterior

FACTORS = (Factor("colour", 3, True), Factor("side", 2, True), Factor("motion", 2, False))
COLOURS = torch.tensor([[230, 60, 60], [70, 160, 90], [80, 110, 240]], dtype=torch.uint8)
STEPS, SIZE = 6, 16


def draw(labels, start=None):
    "Films of a square of this colour and side that moves to the right or, played backwards, to the left."
    frames = torch.zeros(len(labels), STEPS, 3, SIZE, SIZE, dtype=torch.uint8)
    for film, (colour, side, motion), first in zip(frames, labels.tolist(), start or [1] * len(labels)):
        w = (4, 7)[side]
        for t in range(STEPS):
            x = first + (t if motion == 0 else STEPS - 1 - t)
            film[t, :, 5 : 5 + w, x : x + w] = COLOURS[colour][:, None, None]
    return frames


def squares(count, seed):
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(np.stack([rng.integers(f.classes, size=count) for f in FACTORS], 1))
    return VideoData(draw(labels, rng.integers(0, 4, count).tolist()), labels=labels, factors=FACTORS)


@pytest.fixture(scope="module")
def train():
    return squares(300, 0)


@pytest.fixture(scope="module")
def test():
    return squares(120, 1)


@pytest.fixture(scope="module")
def trained(train):
    return judge.train_judge(train, steps=120)


def sure(mean):
    return Posterior(mean, torch.zeros_like(mean))


class Planted:
    "What the planted models share: all pairs of a swap, one by one."

    def swap(self, looks, motions, mode="pose", generator=None):
        identity, pose = self.factors(looks).identity.mean, self.factors(motions).pose.mean
        return Swapped(torch.stack([self.render(identity, p.expand(len(identity), -1, -1)) for p in pose]))


class Perfect(Planted):
    "Measures colour, side and place of the square, and draws it again: identity 3, pose 1."

    def factors(self, x, mask=None):
        light = x.amax((1, 3, 4))
        side = (x.amax(2)[:, 0] > 0).sum((1, 2)).double().sqrt().float()
        first = (x.amax((2, 3)) > 0).float().argmax(-1)[..., None].float()
        return Factors(sure(torch.cat([light, side[:, None]], 1)), sure(first), None)

    def render(self, identity, pose):
        frames = torch.zeros(len(pose), pose.shape[1], 3, SIZE, SIZE)
        for film, look, path in zip(frames, identity, pose[..., 0].round().long()):
            for frame, x in zip(film, path):
                frame[:, 5 : 5 + round(float(look[3])), x : x + round(float(look[3]))] = look[:3, None, None]
        return frames

    def draw_identity(self, count, generator=None):
        colour = COLOURS[torch.randint(3, (count,), generator=generator)].float() / 255
        return torch.cat([colour, 4.0 + 3 * torch.randint(2, (count, 1), generator=generator)], 1)


class Copies(Planted):
    "Keeps the whole film in the pose, or in the identity."

    def __init__(self, where="pose"):
        self.where = where

    def factors(self, x, mask=None):
        nothing = torch.zeros(len(x), 1), torch.zeros(len(x), x.shape[1], 1)
        whole = x.flatten(1), x.flatten(2)
        here = self.where == "pose"
        return Factors(sure(nothing[0] if here else whole[0]), sure(whole[1] if here else nothing[1]), None)

    def render(self, identity, pose):
        kept = pose if self.where == "pose" else identity
        return kept.reshape(len(pose), pose.shape[1], 3, SIZE, SIZE)

    def draw_identity(self, count, generator=None):
        return torch.randn(count, 1 if self.where == "pose" else STEPS * 3 * SIZE**2, generator=generator)


def chance_interval(share, n):
    return 4 * math.sqrt(share * (1 - share) / n)


def test_a_judge_knows_new_films_and_shuffled_labels_give_chance(train, test, trained):
    assert min(judge.accuracies(trained, test).values()) >= 0.98
    order = torch.from_numpy(np.random.default_rng(5).permutation(len(train)))
    mixed = VideoData(train.frames, labels=train.labels[order], factors=FACTORS)
    many = squares(600, 7)
    found = judge.accuracies(judge.train_judge(mixed, steps=60), many)
    for f in FACTORS:
        assert abs(found[f.name] - 1 / f.classes) < 0.05 + chance_interval(1 / f.classes, len(many)), f.name


def test_a_film_backwards_is_the_other_motion_and_the_same_look(test, trained):
    forth, back = (judge.answers(trained, x) for x in (test.frames, test.frames.flip(1)))
    assert torch.equal(forth[:, :2], back[:, :2])
    assert torch.equal(forth[:, 2], 1 - back[:, 2])


def test_a_judge_is_a_function_of_its_arguments_and_leaves_the_random_state(train):
    before = torch.get_rng_state()
    a, b, c = (judge.train_judge(train, seed=s, steps=3) for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a.look.weight, b.look.weight) and not torch.equal(a.look.weight, c.look.weight)


def test_bytes_and_floats_are_judged_alike_and_the_batch_does_not_matter(test, trained):
    p = judge.probabilities(trained, test.frames)
    q = judge.probabilities(trained, test.frames.float() / 255)
    alone = judge.probabilities(trained, test.frames[7:8])
    for a, b, c in zip(p, q, alone):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a[7:8], c, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a.sum(1), torch.ones(len(a)))


def test_a_stored_judge_is_the_same_and_other_files_are_refused(tmp_path, test, trained):
    path = tmp_path / "judge.safetensors"
    judge.save_judge(trained, path)
    again = judge.load_judge(path)
    assert again.factors == FACTORS
    assert torch.equal(judge.answers(again, test.frames), judge.answers(trained, test.frames))
    about = '{"factors": [["a", 1000000, true]], "channels": 3, "size": 64, "units": 1000000000}'
    contents = ((b"", {}), ({"x": torch.zeros(2)}, {"format": "another"}))
    contents += (({"x": torch.zeros(2)}, {"format": judge.JUDGE_FORMAT, "judge": about}),)
    for tensors, meta in contents:
        path.write_bytes(tensors) if isinstance(tensors, bytes) else save_file(tensors, path, meta)
        with pytest.raises(InputError, match="no judge"):
            judge.load_judge(path)


def test_the_planted_perfect_model_swaps_everything(test, trained):
    scores = swaps.swap_scores(Perfect(), test, trained, pairs=200)
    assert scores.share.min() >= 0.97 and scores.looks >= 0.97 and scores.motions >= 0.97
    assert (scores.low <= scores.share).all() and (scores.share <= scores.high).all()


@pytest.mark.parametrize("where", ["pose", "identity"])
def test_the_planted_cheat_is_consistent_and_swaps_at_chance(where, test, trained):
    same = swaps.consistency(Copies(where), test, trained)
    assert same.share.tolist() == [1.0] * 3
    scores = swaps.swap_scores(Copies(where), test, trained, pairs=600)
    static = torch.tensor(scores.static)
    fooled = static if where == "pose" else ~static
    assert (scores.share[~fooled] >= 0.97).all()
    # two clips of different characters agree in a static factor a little less often than two clips
    agree = torch.stack([(test.labels[:, k, None] == test.labels[:, k]).double() for k in range(3)])
    other = character(test)[:, None] != character(test)
    expected = (agree * other).sum((1, 2)) / other.sum()
    for k in fooled.nonzero().flatten().tolist():
        assert abs(scores.share[k] - expected[k]) < chance_interval(float(expected[k]), 600) + 0.02
        assert scores.low[k] < 1 - 0.3


def test_a_pair_is_scored_by_the_right_clip(test):
    look, motion = swaps.random_pairs(test, 500, 3)
    who = character(test)
    assert (who[look] != who[motion]).all()
    assert len(look.unique()) > 100 and len(motion.unique()) > 100  # of 120
    films = swaps.swapped_films(Perfect(), test, look[:20], motion[:20])
    by_swap = swaps.swapped_films(Perfect(), test, look[:20], motion[:20], mode="dynamics")
    torch.testing.assert_close(films, by_swap)  # the planted model has no other motion than that very film
    torch.testing.assert_close(films.amax((1, 3, 4)) * 255, COLOURS[test.labels[look[:20], 0]].float())


def test_motion_kept_with_a_drawn_identity(test, trained):
    kept = swaps.kept_with_drawn_identity(Perfect(), test, trained)
    assert kept.share[2] >= 0.97 and kept.share[:2].isnan().all()
    assert abs(kept.entropies[0].inter - math.log(3)) < 0.05  # the prior has all colours
    flipped = VideoData(test.frames, labels=test.labels * torch.tensor([1, 1, 0]), factors=FACTORS)
    half = swaps.kept_with_drawn_identity(Perfect(), flipped, trained).share[2]
    assert abs(half - (test.labels[:, 2] == 0).double().mean()) < 0.03


@given(st.lists(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), min_size=1, max_size=9))
def test_entropies_are_those_of_torch_and_the_score_is_a_divergence(rows):
    p = torch.tensor(rows, dtype=torch.float64)
    p = p / p.sum(1, keepdim=True)
    e = swaps.entropies(p.float())
    of = torch.distributions.Categorical(p)
    mean = torch.distributions.Categorical(p.mean(0))
    assert abs(e.intra - of.entropy().mean()) < 1e-5 and abs(e.inter - mean.entropy()) < 1e-5
    kl = torch.distributions.kl_divergence(of, torch.distributions.Categorical(p.mean(0).expand_as(p))).mean()
    assert abs(math.log(e.score) - kl) < 1e-5


def test_frechet_of_equal_shifted_and_scaled_sets():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(400, 5, generator=g, dtype=torch.float64) @ torch.randn(5, 5, generator=g, dtype=torch.float64)
    size = float(a.T.cov().trace())
    assert swaps.frechet(a, a) <= 1e-6 * size  # a root of rounding errors, five eigenvalues
    shift = torch.arange(5, dtype=torch.float64)
    assert abs(swaps.frechet(a, a + shift) - float(shift @ shift)) <= 1e-6 * size
    centred = a - a.mean(0)
    assert abs(swaps.frechet(centred, 3 * centred) - 4 * size) <= 1e-6 * size  # (3 - 1)² tr Σ


def test_frechet_is_that_of_the_matrix_root_of_the_product():
    g = torch.Generator().manual_seed(1)
    a, b = (
        torch.randn(300, 4, generator=g, dtype=torch.float64) @ torch.randn(4, 4, generator=g).double() for _ in "ab"
    )
    values = np.linalg.eigvals((a.T.cov() @ b.T.cov()).numpy())  # of a product that is not symmetric
    expected = (a.mean(0) - b.mean(0)).square().sum() + a.T.cov().trace() + b.T.cov().trace()
    expected = float(expected) - 2 * np.sqrt(values.real).sum()
    assert abs(swaps.frechet(a, b) - expected) < 1e-8 * abs(expected) + 1e-8
    assert abs(swaps.frechet(a, b) - swaps.frechet(b, a)) < 1e-8 * abs(expected) + 1e-8


def test_frechet_of_a_model_that_reconstructs_exactly_is_that_of_the_data(test, trained):
    assert abs(swaps.frechet_of(Copies(), test, trained).ratio - 1) < 1e-3


@pytest.mark.parametrize("spread", [0.0, 1.5])
def test_intervals_over_characters_hold_the_truth(spread):
    rng, hits = np.random.default_rng(0), 0
    many = 1 / (1 + np.exp(-(1.2 + spread * math.sqrt(2) * rng.standard_normal(200_000))))
    for _ in range(200):
        who = rng.integers(80, size=(2, 500))
        own = spread * rng.standard_normal((2, 80))
        p = 1 / (1 + np.exp(-(1.2 + own[0, who[0]] + own[1, who[1]])))
        right = torch.from_numpy(rng.random(500) < p)
        low, high = swaps.share_interval(right, *torch.from_numpy(who))
        hits += low <= many.mean() <= high
    assert hits / 200 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 200)


def test_an_interval_where_all_are_right_knows_as_much_as_there_are_characters():
    right, who = torch.ones(1000, dtype=torch.bool), torch.arange(1000) % 50
    low, high = swaps.share_interval(right, who)
    assert high == 1 and abs(low - 50 / (50 + 1.96**2)) < 1e-12
    low, high = swaps.share_interval(~right, who)
    assert low == 0 and abs(high - 1.96**2 / (50 + 1.96**2)) < 1e-12


def test_probes_read_what_is_planted_and_nothing_else(train, test):
    perfect = swaps.leaks_between(Perfect(), train, test)
    assert perfect.identity[:2].min() >= 0.99 and abs(perfect.identity[2] - 0.5) < 0.2
    assert perfect.pose[2] >= 0.99 and perfect.pose[1] < 0.75
    copies = swaps.leaks_between(Copies(), train, test)
    assert copies.pose.min() >= 0.9 and (copies.identity - copies.chance).abs().max() < 1e-9


def test_all_measures_fit_into_one_row_and_one_json(train, test, trained):
    table = swaps.measure_swaps(Perfect(), train, test, trained, labels="character", pairs=60)
    row = swaps.swap_row(table)
    assert row["labels used"] == "character" and row["swap: motion"] == "1.00"
    assert plain(table)["swap"]["films"] == 60 and plain(table)["kept"]["share"][:2] == [None, None]


def test_films_and_judges_that_do_not_fit_are_refused(test, trained):
    other = VideoData(test.frames, labels=test.labels[:, 1:], factors=FACTORS[1:])
    with pytest.raises(InputError, match="train a judge"):
        swaps.swap_scores(Perfect(), other, trained)
    with pytest.raises(InputError, match="no labels"):
        swaps.consistency(Perfect(), VideoData(test.frames), trained)
    with pytest.raises(InputError, match="same character"):
        swaps.frechet_of(Perfect(), test[character(test) == character(test)[0]], trained)
    with pytest.raises(InputError, match="this judge looks at"):
        judge.answers(trained, test.frames[..., :8])


LABELS = np.stack([np.random.default_rng(k).integers(c, size=2000) for k, c in enumerate((6, 4, 9))], 1)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_mig_and_dci_are_one_for_a_perfect_code(noise):
    code = LABELS + noise * np.random.default_rng(8).standard_normal(LABELS.shape)
    assert codes.mig(code, LABELS).score > 0.95  # counting adds about (20 - 1)(9 - 1) / 2n = .04 nats elsewhere
    found = codes.dci(code, LABELS)
    assert min(found[:3]) > 0.97


def test_mig_and_dci_are_near_zero_for_noise():
    code = np.random.default_rng(9).standard_normal((2000, 6))
    assert codes.mig(code, LABELS).score < 0.03
    found = codes.dci(code, LABELS)
    assert found.disentanglement < 0.05 and found.completeness < 0.05
    chance = np.mean([1 / 6, 1 / 4, 1 / 9])
    assert abs(found.informativeness - chance) < chance_interval(chance, 600)


def test_their_known_failure_is_a_rotated_code():
    code = (LABELS - LABELS.mean(0)) / LABELS.std(0)
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]
    assert codes.mig(code @ turn, LABELS).score < 0.4 < codes.mig(code, LABELS).score
    assert codes.dci(code @ turn, LABELS).disentanglement < 0.6
    back = np.abs(code @ turn @ turn.T - code).max()
    assert back < 1e-12  # nothing is lost


def test_the_order_of_the_numbers_does_not_matter_for_mig():
    code = LABELS @ np.random.default_rng(2).standard_normal((3, 5))
    a, b = codes.mig(code, LABELS), codes.mig(code[:, [3, 1, 4, 0, 2]], LABELS)
    assert torch.allclose(a.gaps, b.gaps, atol=1e-12)
    hot = np.concatenate([F.one_hot(torch.from_numpy(v)).numpy() for v in LABELS.T], 1)
    assert codes.mig(hot.astype(float), LABELS).score < 0.2  # a factor that is a vector has no gap
