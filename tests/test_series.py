"""Series of one's own: partly missing vectors, models, fits, errors and forecasts, against the dense joint law and
statsmodels.
"""

import functools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch
from statsmodels.stats.diagnostic import acorr_ljungbox

from kvae_nb.app import series, series_em, series_fit, series_forecast
from kvae_nb.app.series_em import fit_em
from kvae_nb.app.series_fit import fit_gradient, positive
from kvae_nb.app.series_forecast import forecast_series
from kvae_nb.app.series_models import autoregression, local_level, seasonal
from kvae_nb.core.errors import InputError
from kvae_nb.core.gaussians import condition
from kvae_nb.inference.lgssm import LGSSM, dense_joint, sample_prior
from kvae_nb.inference.routes import BACKENDS

ROUTES = ["auto", *(k for k in BACKENDS if k != "gpu")]
F64 = torch.float64
NILE = sm.datasets.nile.load_pandas().data["volume"].to_numpy()


def covariance(n, generator, many=()):
    X = torch.randn(*many, n, n + 2, dtype=F64, generator=generator)
    return X @ X.mT / (n + 2)


def random_model(n=3, p=3, m=0, steps=1, seed=0):
    "A model with correlated noises, each matrix its own at every step where `steps` is above 1."
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, dtype=F64, generator=g)
    A = 0.5 * draw(steps, n, n) / math.sqrt(n) + 0.5 * torch.eye(n, dtype=F64)
    return LGSSM(
        A,
        draw(steps, n, m) if m else None,
        draw(steps, p, n),
        covariance(n, g, (steps,)),
        covariance(p, g, (steps,)),
        draw(n),
        covariance(n, g),
    )


def dense_law(model, a, mask, u=None):
    "Law of all states and observations given the observed numbers, and log p of these."
    T, n, rows = a.shape[0], model.A.shape[-1], mask.flatten().nonzero()[:, 0]
    joint = dense_joint(model, T, u)
    rows = (rows + T * n).tolist()
    if not rows:
        return joint, torch.zeros((), dtype=F64), rows
    seen = a.flatten()[mask.flatten()]
    nats = torch.distributions.MultivariateNormal(joint.mean[rows], joint.cov[rows][:, rows]).log_prob(seen)
    return condition(joint, rows, seen), nats, rows


MASKS = {
    "partly": "110 011 101 001 111",
    "first missing": "000 010 111 101 110",
    "last missing": "111 100 010 000 000",
    "all missing": "000 000 000 000 000",
    "one number": "000 000 010 000 000",
    "all there": "111 111 111 111 111",
    "one step": "101",
    "one step, nothing": "000",
}
as_mask = lambda text: torch.tensor([[c == "1" for c in step] for step in text.split()])


@pytest.mark.parametrize("backend", ROUTES)
@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("pattern", MASKS)
def test_partly_missing_vectors_are_exact(pattern, moving, backend):
    mask = as_mask(MASKS[pattern])
    T = len(mask)
    model = random_model(steps=T if moving else 1, m=2)
    u = torch.randn(T, 2, dtype=F64)
    whole = sample_prior(model, T, u=u).a
    a = torch.where(mask, whole, torch.nan)
    law, nats, _ = dense_law(model, a, mask, u)
    torch.testing.assert_close(series.log_evidence(model, a, None, u, backend), nats)
    s = series.smoother(model, whole, mask, u, backend)
    for t in range(T):
        at = slice(3 * t, 3 * t + 3)
        torch.testing.assert_close(s.mean[t], law.mean[at])
        torch.testing.assert_close(s.cov[t], law.cov[at, at])
        if t:
            torch.testing.assert_close(s.lag_cov[t - 1], law.cov[at, 3 * t - 3 : 3 * t])
    if backend != "information":
        f = series.kalman_filter(model, a, None, u, backend)
        torch.testing.assert_close(f.log_prob.sum(), nats)
        assert (f.log_prob[~mask.any(-1)] == 0).all()
        for t in range(T):
            upto, _, _ = dense_law(model, a, mask & (torch.arange(T) <= t)[:, None], u)
            torch.testing.assert_close(f.mean[t], upto.mean[3 * t : 3 * t + 3])
            torch.testing.assert_close(f.cov[t], upto.cov[3 * t : 3 * t + 3, 3 * t : 3 * t + 3])


@pytest.mark.parametrize("backend", ROUTES)
def test_every_sequence_of_a_batch_has_its_own_mask(backend):
    model, masks = random_model(), torch.rand(2, 3, 6, 3) > 0.4
    a = torch.where(masks, torch.randn(2, 3, 6, 3, dtype=F64), torch.nan)
    got, s = series.log_evidence(model, a, backend=backend), series.smoother(model, a, backend=backend)
    for i in range(2):
        for j in range(3):
            law, nats, _ = dense_law(model, a[i, j], masks[i, j])
            torch.testing.assert_close(got[i, j], nats)
            torch.testing.assert_close(s.mean[i, j].flatten(), law.mean[:18])


def test_one_series_under_many_masks_and_many_models_of_one_series():
    model, masks, a = random_model(), torch.rand(4, 5, 3) > 0.4, torch.randn(5, 3, dtype=F64)
    many = series.log_evidence(model, a, masks)
    torch.testing.assert_close(many, torch.stack([dense_law(model, a, m)[1] for m in masks]))
    models = [random_model(seed=k) for k in range(3)]
    both = LGSSM(*(None if x[0] is None else torch.stack(x) for x in zip(*models)))
    torch.testing.assert_close(
        series.log_evidence(both, a, masks[0]), torch.stack([dense_law(m, a, masks[0])[1] for m in models])
    )


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (F64, 1e-10)])
def test_gradients_are_those_of_the_dense_law_and_missing_numbers_have_none(dtype, tolerance):
    model, mask = random_model(), as_mask(MASKS["partly"])
    a = torch.where(mask, torch.randn(5, 3, dtype=F64), torch.nan)

    def gradients(value, dtype):
        parts = [x.to(dtype).requires_grad_() for x in (*(M for M in model if M is not None), a)]
        *M, data = parts
        return torch.autograd.grad(value(LGSSM(M[0], None, *M[1:]), data), parts)

    right = gradients(lambda m, x: dense_law(m, x, mask)[1], F64)
    got = gradients(series.log_evidence, dtype)
    for r, g in zip(right, got):
        g = g.double()
        if r.dim() >= 2 and r.shape[-1] == r.shape[-2]:
            r, g = r + r.mT, g + g.mT  # only the symmetric part of a covariance counts
        torch.testing.assert_close(
            g, torch.where(r.isnan(), 0.0, r), rtol=tolerance, atol=tolerance * float(r[~r.isnan()].abs().max())
        )
    assert (got[-1][~mask] == 0).all()


def test_second_derivatives_of_a_partly_missing_series():
    mask, a, e = as_mask(MASKS["partly"]), torch.randn(5, 3, dtype=F64), random_model()
    value = lambda x, f: f(e._replace(R=e.R * x[0].exp(), Q=e.Q * x[1].exp()))
    right = torch.autograd.functional.hessian(
        lambda x: value(x, lambda m: dense_law(m, a, mask)[1]), torch.zeros(2, dtype=F64)
    )
    for backend in ("loop", "scan"):
        got = torch.autograd.functional.hessian(
            lambda x: value(x, lambda m: series.log_evidence(m, a, mask, backend=backend)), torch.zeros(2, dtype=F64)
        )
        torch.testing.assert_close(got, right)


def test_what_stands_at_missing_places_and_how_large_the_noise_is_changes_nothing():
    model, mask = random_model(), as_mask(MASKS["partly"])
    a = torch.randn(5, 3, dtype=F64)
    for scale in (1e-10, 1.0, 1e10):
        small = model._replace(R=model.R * scale, C=model.C * scale**0.5)
        x = [torch.where(mask, a * scale**0.5, v) for v in (math.nan, math.inf, 1e300, 0.0)]
        nats = [series.log_evidence(small, v, mask) for v in x]
        assert all(torch.equal(v, nats[0]) for v in nats)
        torch.testing.assert_close(nats[0] + int(mask.sum()) * math.log(scale) / 2, dense_law(model, a, mask)[1])


@pytest.mark.parametrize(
    "a, mask",
    [
        (torch.zeros(4, 3), torch.ones(4, dtype=torch.bool)),  # for whole steps: which is meant?
        (torch.zeros(3, 3, 3), torch.ones(3, 3, dtype=torch.bool)),  # [batch, time], could be read as [time, p]
        (torch.zeros(4, 3), torch.ones(4, 1, dtype=torch.bool)),
        (torch.zeros(2, 4, 3), torch.ones(3, 4, 3, dtype=torch.bool)),
        (torch.zeros(0, 3), None),
        (torch.zeros(()), None),
        (torch.zeros(4, 0), None),
        (torch.zeros(0), None),
        (torch.zeros(4, 3), torch.ones(4, 3)),
        (torch.zeros(4, 3), np.ones((4, 3))),
        (torch.full((4, 3), math.nan), torch.ones(4, 3, dtype=torch.bool)),
        (torch.full((4, 3), math.inf), None),
        (torch.zeros(4, 2), None),
        (torch.zeros(4), None),
        (torch.zeros(4, 3, dtype=F64), None),
        (np.zeros((4, 3), dtype=object), None),
        (np.zeros((4, 2)), None),
        (np.full((4, 3), np.inf), None),
    ],
)
def test_what_does_not_fit_is_refused(a, mask):
    model = LGSSM(*(None if x is None else x.float() for x in random_model()))
    for f in (series.log_evidence, series.kalman_filter, series.smoother, series.fill_in_series, series.innovations):
        with pytest.raises(InputError):
            f(model, a, mask)


def test_controls_come_as_arrays_and_must_be_known():
    model, a = random_model(m=2), torch.randn(5, 3, dtype=F64)
    u = torch.randn(5, 2, dtype=F64)
    right = dense_law(model, a, torch.ones(5, 3, dtype=torch.bool), u)[1]
    for kind in (u, u.numpy(), u.tolist()):
        torch.testing.assert_close(series.log_evidence(model, a, None, kind), right)
    whole = torch.randint(3, (5, 2))
    assert torch.equal(
        series.log_evidence(model, a, None, whole.numpy()), series.log_evidence(model, a, None, whole.to(F64))
    )
    for wrong in (u.float(), torch.where(torch.arange(5)[:, None] == 2, math.nan, u), u[:4], None):
        with pytest.raises(InputError):
            series.log_evidence(model, a, None, wrong)


@pytest.mark.parametrize("pattern", MASKS)
def test_missing_numbers_are_filled_in_as_the_dense_law_says(pattern):
    mask = as_mask(MASKS[pattern])
    T, model = len(mask), random_model()
    a = torch.where(mask, torch.randn(T, 3, dtype=F64), torch.nan)
    law, _, rows = dense_law(model, a, mask)
    got = series.fill_in_series(model, a)
    assert torch.equal(got.mean[mask], a[mask]) and (got.cov.diagonal(dim1=-2, dim2=-1)[mask] == 0).all()
    torch.testing.assert_close(got.mean[~mask], law.mean[3 * T :])
    place = {r: k for k, r in enumerate(r for r in range(3 * T) if r + 3 * T not in rows)}
    for t in range(T):
        hidden = [j for j in range(3) if not mask[t, j]]
        where = [3 * T + place[3 * t + j] for j in hidden]
        torch.testing.assert_close(got.cov[t][hidden][:, hidden], law.cov[where][:, where])


@pytest.mark.parametrize("R", ["singular", "of two units"])
def test_filling_in_with_a_noise_that_is_singular_or_of_two_units(R):
    model, mask = random_model(), as_mask(MASKS["partly"])
    if R == "singular":
        r = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]], dtype=F64)
        model = model._replace(R=(r @ r.mT)[None])
    else:
        s = torch.tensor([1e-6, 1.0, 1e6], dtype=F64)
        model = model._replace(R=model.R * s[:, None] * s, C=model.C * s[:, None])
    a = sample_prior(random_model(), 5).a if R == "singular" else torch.randn(5, 3, dtype=F64) * s
    law, _, _ = dense_law(model, a, mask)
    torch.testing.assert_close(
        series.fill_in_series(model, a, mask, backend="loop").mean[~mask], law.mean[15:], rtol=1e-6, atol=1e-9
    )


# The door


@pytest.mark.parametrize(
    "y, shape, missing",
    [
        (NILE, (100, 1), 0),
        (list(NILE), (100, 1), 0),
        (NILE.astype(int), (100, 1), 0),
        (torch.tensor(NILE), (100, 1), 0),
        (torch.tensor(NILE, dtype=torch.bfloat16), (100, 1), 0),
        (torch.arange(6), (6, 1), 0),
        (np.float16([1, 2, np.nan]), (3, 1), 1),
        (np.ma.masked_equal([1.0, 2.0, 3.0], 2.0), (3, 1), 1),
        (np.ma.masked_equal([1, 2, 3], 2), (3, 1), 1),
        (pd.Series([1, None, 3], dtype="Int64"), (3, 1), 1),
        (pd.Series([1.0, None, 3.0]), (3, 1), 1),
        (pd.DataFrame({"a": [1, 2], "b": [0.5, None]}), (2, 2), 1),
        (np.zeros((4, 5, 2)), (4, 5, 2), 0),
        (range(5), (5, 1), 0),
        (torch.zeros(3, requires_grad=True), (3, 1), 0),
        (np.arange(6, dtype=">f8"), (6, 1), 0),
    ],
)
def test_a_series_comes_in_many_kinds(y, shape, missing):
    s = series.as_series(y)
    assert s.a.shape == s.mask.shape == shape and s.a.dtype == F64
    assert int((~s.mask).sum()) == int(s.a.isnan().sum()) == missing
    assert f"{shape[-2]} steps of {shape[-1]} number" in s.note and f"{missing} of {math.prod(shape)} missing" in s.note


@pytest.mark.parametrize(
    "y",
    [
        None,
        "1 2 3",
        5.0,
        [],
        [[]],
        [1, None],
        [[1, 2], [3]],
        ["1", "2"],
        np.array([1, 2], dtype=object),
        [1j],
        np.array([True, False]),
        torch.ones(3, dtype=torch.bool),
        torch.ones(3, dtype=torch.complex64),
        np.zeros((0, 2)),
        np.zeros((2, 0)),
        [1.0, math.inf],
        pd.Series(["a"]),
        pd.DataFrame({"a": [1.0], "b": ["x"]}),
        pd.Series([True, False]),
        pd.Series([1.0, 2.0], index=[2, 1]),
        pd.Series([1.0, 2.0], index=[1, 1]),
        np.array(["2020-01-01"], dtype="M8[D]"),
        {"a": [1, 2]},
        {1, 2},
    ],
)
def test_what_is_no_series_is_refused_in_one_sentence(y):
    with pytest.raises(InputError) as e:
        series.as_series(y)
    assert "\n" not in str(e.value) and len(str(e.value)) < 200


@pytest.mark.parametrize(
    "index, more",
    [
        (pd.date_range("2020-01-31", periods=4, freq="ME"), ["2020-05-31", "2020-06-30"]),
        (pd.period_range("2020-01", periods=4, freq="M"), ["2020-05-01", "2020-06-01"]),
        (pd.DatetimeIndex(["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-04"]), ["2020-01-05", "2020-01-06"]),
        (range(1871, 1875), [1875, 1876]),
        (list("abcd"), [4, 5]),
        (pd.date_range("2020-01-02", periods=4, freq="B"), ["2020-01-08", "2020-01-09"]),
    ],
)
def test_labels_of_steps_to_come(index, more):
    got = series_forecast.labels_ahead(pd.Series(range(4), index=index).index, 2)
    assert [str(x)[:10] for x in got[4:]] == [str(x) for x in more]


@pytest.mark.parametrize(
    "index, even",
    [
        (range(1871, 1875), True),
        ([1871, 1872, 1874, 1875], False),
        (pd.date_range("2020-01-31", periods=4, freq="ME"), True),
        (pd.DatetimeIndex(["2020-01-01", "2020-01-02", "2020-01-04", "2020-01-05"]), False),
        (list("abcd"), True),
        (pd.period_range("2020-01", periods=4, freq="M"), True),
        (pd.PeriodIndex(["2020-01", "2020-02", "2020-04", "2020-05"], freq="M"), False),
        (np.arange(4) * 0.1, True),
        (pd.date_range("2020", periods=4, freq="h", tz="Europe/Rome"), True),
        (pd.bdate_range("2020-01-02", periods=4), True),
    ],
)
def test_steps_that_were_left_out_are_noticed(index, even, recwarn):
    s = series.as_series(pd.Series(np.arange(4.0), index=index))
    assert len(recwarn) == (0 if even else 1) and len(s.index) == 4
    assert len(series_forecast.labels_ahead(s.index, 3)) == 7


def test_a_mask_beside_the_series():
    mask = np.ones(100, dtype=bool)
    mask[20:40] = False
    s = series.as_series(NILE, mask)
    assert int(s.mask.sum()) == 80 and s.a[20:40].isnan().all() and s.a[19] == NILE[19]
    again = series.as_series(series.as_series(NILE), mask[:, None])
    assert torch.equal(again.mask, s.mask)
    for wrong in (mask.astype(float), mask[:50], mask[None], "x"):
        with pytest.raises(InputError):
            series.as_series(NILE, wrong)
    with pytest.raises(InputError):
        series.as_series([1.0, math.nan], [True, True])


# Models


def observation_cov(model, T):
    return dense_joint(model, T).cov[-T:, -T:]


def test_models_have_the_covariances_of_the_textbook():
    t = torch.arange(1.0, 7, dtype=F64)
    first = lambda power: (t[:, None] - 1) ** power * (t - 1) ** power
    level = series.local_level(2.0, 3.0, var=5.0)
    torch.testing.assert_close(
        observation_cov(level, 6), 5 + 2 * torch.minimum(t[:, None], t) - 2 + 3 * torch.eye(6, dtype=F64)
    )
    trend = series.local_linear_trend(0.0, 0.0, 3.0, var=[5.0, 7.0])
    torch.testing.assert_close(observation_cov(trend, 6), 5 + 7 * first(1) + 3 * torch.eye(6, dtype=F64))
    ar = series.autoregression([0.7], 2.0, 0.5)
    torch.testing.assert_close(
        observation_cov(ar, 6), 2 / (1 - 0.49) * 0.7 ** (t[:, None] - t).abs() + 0.5 * torch.eye(6, dtype=F64)
    )


def test_the_slope_walks_too():
    model, T = series.local_linear_trend(2.0, 3.0, 0.0, var=0.0), 5
    right = torch.zeros(T, T, dtype=F64)
    for t in range(T):
        for s in range(T):  # a_t is the sum of steps up to t, and of slope steps j = 2 … t-1, each counted t-j times
            right[t, s] = 2 * min(t, s) + 3 * sum((t - j) * (s - j) for j in range(1, min(t, s)))
    torch.testing.assert_close(observation_cov(model, T), right)


def test_an_autoregression_starts_in_its_stationary_law():
    arma = sm.tsa.ArmaProcess(ar=[1, -0.5, 0.3, -0.2], ma=[1])
    model = series.autoregression([0.5, -0.3, 0.2], 1.0)
    right = torch.tensor(arma.acovf(8))
    lags = (torch.arange(8)[:, None] - torch.arange(8)).abs()
    torch.testing.assert_close(observation_cov(model, 8), right[lags])
    for wrong in ([1.0], [0.5, 0.5], [2.0], [], [-1.1]):
        with pytest.raises(InputError):
            series.autoregression(wrong, 1.0)


@pytest.mark.parametrize("period", [2, 3, 12])
def test_a_season_repeats_and_sums_to_zero(period):
    still, walk = (observation_cov(series.seasonal(period, *v), 3 * period) for v in ((1.0, 0.0), (0.0, 2.0)))
    torch.testing.assert_close(still[period:], still[:-period])
    torch.testing.assert_close(still[:period].sum(0), torch.zeros(3 * period, dtype=F64))
    assert (still.diagonal() > 0.99).all()
    ones = torch.stack(
        [(torch.arange(3 * period) >= k) & (torch.arange(3 * period) < k + period) for k in range(2 * period)]
    ).to(F64)
    torch.testing.assert_close(
        (ones @ walk @ ones.mT).diagonal()[1:], torch.full((2 * period - 1,), 2.0, dtype=F64)
    )  # each sum over a period is one step
    with pytest.raises(InputError):
        series.seasonal(1)


def test_sums_of_models():
    parts = (
        series.local_linear_trend(0.1, 0.2, 0.5, mean=[1.0, 2.0], var=1.0),
        series.seasonal(4, 1.0, 0.3),
        series.autoregression([0.5, 0.2], 1.0, 0.25),
    )
    whole = series.add(*parts)
    torch.testing.assert_close(observation_cov(whole, 9), sum(observation_cov(m, 9) for m in parts))
    torch.testing.assert_close(dense_joint(whole, 9).mean[-9:], sum(dense_joint(m, 9).mean[-9:] for m in parts))
    for wrong in (
        (),
        (random_model(m=1),),
        (random_model(steps=4),),
        (random_model(), parts[0]),
        (LGSSM(*(None if x is None else x[None] for x in parts[0])),),
    ):
        with pytest.raises(InputError):
            series.add(*wrong)


# Fits


class LocalLevel(sm.tsa.statespace.MLEModel):
    "statsmodels' local level with the same known start, and nothing left out of the likelihood."

    start_params, param_names = np.array([1e4, 1e4]), ["level", "noise"]

    def __init__(self, y, var=1e7):
        super().__init__(y, k_states=1, k_posdef=1)
        self["design"] = self["transition"] = self["selection"] = np.ones((1, 1))
        self.initialize_known(np.array([0.0]), np.array([[var]]))
        self.loglikelihood_burn = 0

    def transform_params(self, p):
        return p**2

    def untransform_params(self, p):
        return p**0.5

    def update(self, p, **k):
        p = super().update(p, **k)
        self["state_cov", 0, 0], self["obs_cov", 0, 0] = p


UNKNOWN = {"level": series.positive(1e4), "noise": series.positive(1e4)}


@pytest.mark.parametrize("hidden", [(), range(20, 40), [0, 1, 50, 99]])
def test_the_nile_as_statsmodels_has_it(hidden):
    y = NILE.copy()
    y[list(hidden)] = np.nan
    theirs = LocalLevel(y).fit(disp=0, method="bfgs", gtol=1e-9, maxiter=500, cov_type="approx")
    ours = series.fit_gradient(series.local_level, y, UNKNOWN)
    assert ours.converged and ours.free == 2 and ours.seen == 100 - len(hidden)
    values = [float(ours.values[k]) for k in ("level", "noise")]
    np.testing.assert_allclose(values, theirs.params, rtol=2e-4)
    np.testing.assert_allclose(float(ours.log_evidence[-1]), theirs.llf, atol=1e-6)
    np.testing.assert_allclose(ours.aic, theirs.aic, atol=1e-5)
    np.testing.assert_allclose(
        ours.bic, 2 * math.log(100 - len(hidden)) - 2 * theirs.llf, atol=1e-5
    )  # statsmodels counts missing steps, too
    errors = series.standard_errors(ours, y).errors
    at = LocalLevel(y)
    H = at.hessian(np.array(values), transformed=True, method="approx", approx_complex_step=True)
    np.testing.assert_allclose(
        [float(errors[k]) for k in ("level", "noise")], np.sqrt(np.diag(np.linalg.inv(-100 * H))), rtol=2e-3
    )  # theirs is a mean over the steps
    states = at.smooth(np.array(values))
    s = series.smoother(ours.model, y, backend="root")
    np.testing.assert_allclose(s.mean[:, 0], states.smoothed_state[0], rtol=1e-6)
    np.testing.assert_allclose(s.cov[:, 0, 0], states.smoothed_state_cov[0, 0], rtol=1e-4)


def test_the_diffuse_values_of_durbin_and_koopman():
    fit = series.fit_gradient(series.local_level, NILE, UNKNOWN, burn=1)
    np.testing.assert_allclose([float(fit.values[k]) for k in ("noise", "level")], [15099, 1469.1], rtol=6e-4)
    assert fit.seen == 99 and abs(float(fit.log_evidence[-1]) + 632.54) < 0.01


@pytest.mark.parametrize("hidden", [(), range(20, 40)])
def test_em_climbs_and_ends_where_the_gradient_ends(hidden):
    y = NILE.copy()
    y[list(hidden)] = np.nan
    fit = series.fit_em(series.local_level(1e4, 1e4), y, ("Q", "R"), steps=2000)
    assert fit.converged and (fit.log_evidence.diff() > -1e-9).all()
    other = series.fit_gradient(series.local_level, y, UNKNOWN)
    torch.testing.assert_close(fit.log_evidence[-1], other.log_evidence[-1], rtol=0, atol=1e-4)
    errors, more = series.standard_errors(fit, y).errors, series.standard_errors(other, y).errors
    torch.testing.assert_close(errors["Q"][0, 0], more["level"], rtol=0.01, atol=0)


@pytest.mark.parametrize(
    "learn",
    [
        ("R",),
        ("C",),
        ("Q",),
        ("A",),
        ("C", "R"),
        ("A", "Q"),
        ("B",),
        ("A", "B", "Q"),
        ("mean1",),
        ("cov1",),
        ("mean1", "cov1"),
        ("A", "C", "Q", "R", "B", "mean1", "cov1"),
    ],
)
def test_an_em_step_gains_what_is_to_be_had_and_the_maximum_stays_put(learn):
    "Partly missing vectors with correlated noise; the maximum is found through derivatives, which know nothing of EM."
    true, T = random_model(n=2, p=3, m=1), 12
    u = torch.randn(6, T, 1, dtype=F64)
    a = torch.where(torch.rand(6, T, 3) > 0.3, torch.stack([sample_prior(true, T, u=v).a for v in u]), torch.nan)
    mask = ~a.isnan()
    start = true._replace(
        R=true.R * 2,
        Q=true.Q * 0.5,
        C=true.C * 0.9,
        A=true.A * 0.8,
        B=true.B * 0.5,
        mean1=true.mean1 + 0.5,
        cov1=true.cov1 * 2,
    )
    start = true._replace(**{k: getattr(start, k) for k in learn})
    evidence = lambda m: float(series.log_evidence(m, a, None, u).sum())
    model, path = start, [evidence(start)]
    for _ in range(15):
        model = series.em_step(model, torch.where(mask, a, 0.0), mask, u, learn)
        path.append(evidence(model))
    assert min(np.diff(path)) > -1e-9 and path[1] > path[0] + 1e-3
    if len(learn) > 3:
        return  # the basis of the states is free: there is no single maximum
    best = series.fit_gradient(start, a, learn, u=u)
    assert float(best.log_evidence[-1]) >= path[-1] - 1e-6
    after = series.em_step(best.model, torch.where(mask, a, 0.0), mask, u, learn)
    for k in learn:
        torch.testing.assert_close(getattr(after, k), getattr(best.model, k), rtol=1e-4, atol=1e-4)


def test_em_takes_a_step_back_that_rounding_has_spoilt(monkeypatch):
    model, steps, step = series.local_level(1e4, 1e4), [], series.em_step

    def spoilt(model, *rest):
        steps.append(model)
        return step(model, *rest) if len(steps) < 4 else model._replace(Q=model.Q * (math.nan if bad else 100.0))

    for bad in (False, True):
        steps.clear()
        monkeypatch.setattr(series_em, "em_step", spoilt)
        fit = series.fit_em(model, NILE, ("Q", "R"))
        assert not fit.converged and "step 4" in fit.why and len(fit.log_evidence) == 4
        torch.testing.assert_close(series.log_evidence(fit.model, NILE), fit.log_evidence[-1])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e8])
def test_a_start_may_be_far_away(scale):
    fit = series.fit_gradient(
        series.local_level, NILE, {"level": series.positive(scale), "noise": series.positive(scale)}
    )
    np.testing.assert_allclose([float(v) for v in fit.values.values()], [1468.50, 15099.69], rtol=1e-4)


def test_a_series_in_other_units_has_the_same_fit():
    fit = series.fit_gradient(
        lambda level, noise: series.local_level(level, noise, var=1e-5),
        NILE * 1e-6,
        {"level": series.positive(1e-9), "noise": series.positive(1e-9)},
    )
    np.testing.assert_allclose([float(v) for v in fit.values.values()], [1468.50e-12, 15099.69e-12], rtol=1e-4)


def test_the_start_of_ones_own_series():
    "The lines that the README and the notebook print."
    import json
    import re
    from pathlib import Path

    cells = json.loads((Path(__file__).parent.parent / "nbs/50_own_series.ipynb").read_text(encoding="utf-8"))["cells"]
    code = re.search(
        r"```python\n(from kvae_nb.app.series.+?)```", "\n".join("".join(c["source"]) for c in cells), re.S
    )[1]
    assert len(code.splitlines()) <= 10
    names = {}
    exec(code, names)
    assert names["low"].shape == (5, 1) and (names["low"] < names["high"]).all() and names["fit"].seen == 9


def test_diagonal_covariances_stay_so_and_zeros_stay_zero():
    y = torch.randn(80, dtype=F64).cumsum(0) + torch.randn(80, dtype=F64)
    start = series.local_linear_trend(1.0, 0.0, 1.0, var=100.0)
    em = series.fit_em(start, y, ("Q", "R"), diagonal=("Q",), steps=3000, tol=1e-9)
    gradient = series.fit_gradient(start, y, ("Q", "R"), diagonal=("Q",))
    for fit in (em, gradient):
        Q = fit.model.Q[0]
        assert fit.free == 2 and Q[1, 1] == 0 and Q[0, 1] == 0 and Q[0, 0] > 0
    torch.testing.assert_close(em.model.Q, gradient.model.Q, rtol=0.01, atol=0)
    assert series.standard_errors(gradient, y).errors["Q"][1] == 0


def test_errors_are_the_curvature_of_the_dense_law():
    true, T = random_model(n=2, p=2, seed=3), 10
    a = torch.stack([sample_prior(true, T).a for _ in range(10)])
    a = torch.where(torch.rand(10, T, 2) > 0.2, a, torch.nan)
    fit = series.fit_gradient(true, a, ("R",))
    keep = torch.tril_indices(2, 2)

    def nats(r):
        R = torch.zeros(2, 2, dtype=F64).index_put((keep[0], keep[1]), r)
        return sum(dense_law(true._replace(R=(R + R.tril(-1).mT)[None]), x, ~x.isnan())[1] for x in a)

    H = torch.autograd.functional.hessian(nats, fit.model.R[0][keep[0], keep[1]])
    right = torch.linalg.inv(-H).diagonal().sqrt()
    torch.testing.assert_close(series.standard_errors(fit, a).errors["R"][keep[0], keep[1]], right, rtol=1e-4, atol=0)


def test_a_stationary_autoregression_is_found_as_statsmodels_finds_it():
    rng = np.random.default_rng(0)
    y = np.zeros(200)
    for t in range(2, 200):
        y[t] = 1.2 * y[t - 1] - 0.4 * y[t - 2] + rng.normal()
    y = y[50:]
    y[60:70] = np.nan
    theirs = sm.tsa.SARIMAX(y, order=(2, 0, 0), concentrate_scale=False).fit(disp=0, cov_type="approx")
    fit = series.fit_gradient(
        series.autoregression,
        y,
        {"weights": series.stationary([0.1, 0.1]), "var": series.positive(1.0)},
        backend="loop",
    )
    assert fit.free == 3 and fit.converged
    np.testing.assert_allclose([*fit.values["weights"], fit.values["var"]], theirs.params, rtol=2e-3)
    np.testing.assert_allclose(float(fit.log_evidence[-1]), theirs.llf, atol=1e-3)
    errors = series.standard_errors(fit, y).errors
    np.testing.assert_allclose([*errors["weights"], errors["var"]], theirs.bse, rtol=0.02)


def test_weights_and_partial_autocorrelations_are_each_others_inverse():
    w = torch.tensor([0.5, -0.3, 0.2], dtype=F64)
    torch.testing.assert_close(series_fit.autoregression_weights(series_fit.partial_correlations(w)), w)
    right = torch.tensor(sm.tsa.ArmaProcess(ar=[1, -0.5, 0.3, -0.2]).pacf(4)[1:])
    torch.testing.assert_close(series_fit.partial_correlations(w), right)


@pytest.mark.parametrize(
    "y, learn",
    [
        (np.full(50, 3.0), ("Q", "R")),
        (np.full(50, np.nan), ("Q", "R")),
        ([1.0], ("Q", "R")),
        ([1.0, 2.0], ("Q", "R")),
        ([1.0, np.nan, 2.0], ("Q", "R")),
        (NILE, ()),
        (NILE, ("Q", "Q")),
        (NILE, ("B",)),
        (NILE, ("X",)),
        (np.zeros((50, 2)), ("Q",)),
    ],
)
def test_fits_that_cannot_be_are_refused(y, learn):
    for fit in (series.fit_em, series.fit_gradient):
        with pytest.raises(InputError):
            fit(series.local_level(1e4, 1e4), y, learn)


def test_unknowns_that_cannot_be_are_refused():
    y, model = np.random.default_rng(0).normal(size=(50, 3)), random_model()
    for change in ({"Q": model.Q.expand(50, -1, -1)}, {"Q": -model.Q}, {"mean1": model.mean1.expand(2, -1)}):
        for fit in (series.fit_em, series.fit_gradient):
            with pytest.raises(InputError):
                fit(model._replace(**change), y, tuple(change))
    with pytest.raises(InputError):
        series.fit_em(model._replace(Q=model.Q.expand(50, -1, -1)), y, ("A",))
    with pytest.raises(InputError):
        series.fit_em(model, y, ("Q",), diagonal=("Q",))
    with pytest.raises(InputError):
        series.fit_em(model, y, ("Q",), diagonal=("R",))
    for wrong in ({"level": 1e4, "noise": 1e4}, {}, {"level": series.positive(1e4), "noise": 1e4}):
        with pytest.raises(InputError):
            series.fit_gradient(series.local_level, NILE, wrong)
    for make, wrong in (
        (series.positive, -1.0),
        (series.positive, 0.0),
        (series.covariance, torch.zeros(2, 2)),
        (series.stationary, [1.0]),
    ):
        with pytest.raises(InputError):
            make(wrong)


def test_errors_are_refused_away_from_the_maximum_and_where_nothing_is_determined():
    far = series.fit_gradient(series.local_level, NILE, UNKNOWN, steps=1)
    assert not far.converged
    with pytest.raises(InputError, match="maximum"):
        series.standard_errors(far, NILE)
    near = far._replace(learn={"level": series.positive(2500.0), "noise": series.positive(14000.0)})
    with pytest.raises(InputError, match="nats higher"):
        series.standard_errors(near, NILE)
    both = lambda level, noise, more: series.local_level(level, noise + more)
    for start in (5e3, 1e4):
        flat = series.fit_gradient(both, NILE, UNKNOWN | {"more": series.positive(start)})
        with pytest.raises(InputError, match="noise|more"):
            series.standard_errors(flat, NILE)


def test_a_variance_that_ends_at_zero_has_no_error_and_the_others_have_theirs():
    y = torch.randn(200, dtype=F64, generator=torch.Generator().manual_seed(1)) + 5
    fit = series.fit_gradient(series.local_level, y, {"level": series.positive(0.1), "noise": series.positive(1.0)})
    errors = series.standard_errors(fit, y).errors
    assert float(fit.values["level"]) < 1e-5 and errors["level"].isnan()
    torch.testing.assert_close(
        errors["noise"], fit.values["noise"] * math.sqrt(2 / 199), rtol=1e-3, atol=0
    )  # the textbook's for a variance


def test_errors_are_refused_where_a_covariance_has_become_singular():
    a = sample_prior(random_model(p=2), 40).a
    fit = series.fit_em(random_model(p=2), a, ("R",), steps=2)
    flat = fit._replace(learn={"R": series.Free(torch.ones(2, 2, dtype=F64), "covariance")})
    with pytest.raises(InputError, match="singular"):
        series.standard_errors(flat, a)


def test_float32_tensors_are_fitted_in_double_precision():
    y = torch.tensor(NILE, dtype=torch.float32)
    model = LGSSM(*(None if M is None else M.float() for M in series.local_level(1e4, 1e4)))
    fit = series.fit_gradient(model, y, ("Q", "R"))
    assert fit.model.Q.dtype == F64 and abs(float(fit.model.R) - 15099.7) < 0.1
    assert series.standard_errors(fit, y).errors["R"].shape == (1, 1)


# Forecasts and diagnostics


@pytest.mark.parametrize("moving", [False, True])
def test_forecasts_are_the_dense_law(moving):
    model, mask = random_model(steps=9 if moving else 1, m=1), as_mask(MASKS["partly"])
    u, a = torch.randn(9, 1, dtype=F64), torch.where(mask, torch.randn(5, 3, dtype=F64), torch.nan)
    longer = torch.cat([a, torch.full((4, 3), math.nan, dtype=F64)])
    law, _, rows = dense_law(model, longer, ~longer.isnan(), u)
    got = series.forecast_series(model, a, 4, u=u)
    torch.testing.assert_close(got.future.mean.flatten(), law.mean[-12:])
    for k in range(4):
        torch.testing.assert_close(got.future.cov[k], law.cov[-12 + 3 * k :, -12 + 3 * k :][:3, :3])
    C = model.C.expand(9, -1, -1)
    for t in range(5):
        torch.testing.assert_close(got.smoothed.mean[t], C[t] @ law.mean[3 * t : 3 * t + 3])
        torch.testing.assert_close(got.smoothed.cov[t], C[t] @ law.cov[3 * t : 3 * t + 3, 3 * t : 3 * t + 3] @ C[t].mT)
    with pytest.raises(InputError):
        series.forecast_series(model, a, 0, u=u)
    with pytest.raises(InputError):
        series.forecast_series(model, a, 4, u=u[:5])


def test_intervals_hold_what_they_say():
    model, T, h = series.add(series.local_level(1.0, 0.5, var=1.0), series.autoregression([0.5], 1.0)), 15, 5
    draws = sample_prior(model, T + h, (4000,)).a
    future = series.forecast_series(model, draws[:, :T], h).future
    for level in (0.5, 0.95):
        low, high = series.interval(future, level)
        inside = ((draws[:, T:] > low) & (draws[:, T:] < high)).double().mean(0)
        assert (inside - level).abs().max() < 4 * math.sqrt(level * (1 - level) / 4000)
    for wrong in (0, 1, 95):
        with pytest.raises(InputError):
            series.interval(future, wrong)


@pytest.mark.parametrize("pattern", ["partly", "all there", "first missing"])
def test_innovations_are_the_whitened_observations(pattern):
    model, mask = random_model(), as_mask(MASKS[pattern])
    a = torch.where(mask, torch.randn(5, 3, dtype=F64), torch.nan)
    joint, rows = dense_joint(model, 5), (mask.flatten().nonzero()[:, 0] + 15).tolist()
    L = torch.linalg.cholesky(joint.cov[rows][:, rows])
    e = series.innovations(model, a)
    torch.testing.assert_close(
        e[mask], torch.linalg.solve_triangular(L, (a[mask] - joint.mean[rows])[:, None], upper=False)[:, 0]
    )
    assert e[~mask].isnan().all()


def test_diagnostics_are_those_of_statsmodels():
    model = series.local_level(1469.0, 15099.0)
    e, d = series.innovations(model, NILE)[1:, 0].numpy(), series.diagnose_series(model, NILE, lags=8, learned=2)
    theirs = acorr_ljungbox(e, lags=[8], model_df=2)
    np.testing.assert_allclose([d.ljung_box[0], d.ljung_box_p[0]], theirs.to_numpy()[0])
    jb, p, _, _ = sm.stats.jarque_bera(e)
    np.testing.assert_allclose([d.jarque_bera[0], d.jarque_bera_p[0]], [jb, p])
    theirs = LocalLevel(NILE)
    theirs.loglikelihood_burn = 1
    spread, p = theirs.smooth(np.array([1469.0, 15099.0])).test_heteroskedasticity("breakvar")[0]
    np.testing.assert_allclose([d.spread[0], d.spread_p[0]], [spread, p], rtol=1e-3)
    short = NILE[:8]
    for wrong in (
        lambda: series.diagnose_series(model, short),
        lambda: series.diagnose_series(model, NILE, learned=10),
        lambda: series.diagnose_series(model, np.stack([NILE, NILE])[..., None]),
    ):
        with pytest.raises(InputError):
            wrong()


def test_a_wrong_model_is_noticed():
    y = np.random.default_rng(0).normal(size=200).cumsum()
    right, wrong = (
        series.diagnose_series(series.local_level(1.0, 1e-6), y),
        series.diagnose_series(series.local_level(1e-6, 100.0), y),
    )
    assert right.ljung_box_p[0] > 0.01 and wrong.ljung_box_p[0] < 1e-6


def test_the_figure_shows_what_was_computed():
    import matplotlib.pyplot as plt

    y = pd.Series(NILE, index=pd.period_range("1871", periods=100, freq="Y"))
    y.iloc[20:30] = np.nan
    got = series.forecast_series(series.local_level(1469.0, 15099.0), y, 10)
    ax = series.plot_forecast(plt.figure().subplots(), y, got)
    dots, level, future = ax.lines
    assert np.isnan(dots.get_ydata()[20:30]).all() and len(level.get_xdata()) == 100 and len(future.get_xdata()) == 10
    np.testing.assert_allclose(future.get_ydata(), got.future.mean[:, 0])
    assert len(ax.collections) == 4
    with pytest.raises(InputError):
        series.plot_forecast(ax, np.zeros((2, 3, 1)), got)
    plt.close("all")


def test_the_library_does_not_need_statsmodels_or_pandas():
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['statsmodels'] = sys.modules['pandas'] = None; "
        "import kvae_nb.app.series as s; print(s.as_series([1., 2.]).note)"
    )
    assert "2 steps" in subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True).stdout


# ---- starts that do not fit, and arguments that cannot be meant ----
@pytest.mark.parametrize(
    "scale, warns", [(1e-6, False), (1.0, False), (30.0, False), (300.0, True), (1e4, True), (1e6, True)]
)
def test_a_start_that_bends_what_is_learned_is_said(scale, warns):
    """The same series in other units has the same variances in those units, or a warning says why not; mean and var
    mend it.
    """
    rng = np.random.default_rng(0)
    y = scale * (50 + rng.normal(0, 2, 60).cumsum() + rng.normal(0, 5, 60))
    y[:2] = np.nan
    unknown = {"level": positive(scale**2), "noise": positive(scale**2)}
    far = functools.partial(local_level, mean=50 * scale, var=1e4 * scale**2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right = fit_gradient(far, y, unknown).values
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = fit_gradient(local_level, y, unknown).values
        em = fit_em(local_level(*(float(v) for v in right.values())), y, ("Q", "R"), steps=2)
    assert ("before it, so the start bends" in " ".join(str(w.message) for w in said)) == warns and em.seen == 58
    if not warns:
        for name in unknown:
            assert abs(found[name] / right[name] - 1) < 0.02


def test_series_arguments_that_cannot_be_meant():
    y, unknown = np.random.default_rng(0).normal(size=30), {"level": positive(1.0), "noise": positive(1.0)}
    model = local_level(0.5, 0.5)
    wrong = {
        "whole number": [
            *(lambda k=k: forecast_series(model, y, k) for k in (0, -1, 1.5, True, "3", None)),
            *(lambda k=k: fit_gradient(local_level, y, unknown, steps=k) for k in (0, -1, 1.5)),
            lambda: fit_em(model, y, ("Q",), steps=0),
            lambda: seasonal(2.5),
            lambda: seasonal("12"),
        ],
        "GiB": [lambda: forecast_series(model, y, 10**12)],
        "at most 2000": [lambda: seasonal(10**5)],
        "burn": [lambda k=k: fit_gradient(local_level, y, unknown, burn=k) for k in (-1, 1.5, True)],
        "noise": [lambda: fit_gradient(local_level, y, {"level": positive(1.0)})],
        "depth": [lambda: fit_gradient(local_level, y, unknown | {"depth": positive(1.0)})],
        "finite": [lambda: positive(float("inf"))],
        "numbers are needed": [lambda: positive("a"), lambda: autoregression("a", 1.0)],
        "order of the data": [lambda: fit_gradient(local_level, y * 1e9, unknown)],
    }
    for words, calls in wrong.items():
        for call in calls:
            with pytest.raises(InputError, match=words):
                call()
    assert forecast_series(model, y, np.int64(3)).future.mean.shape == (3, 1)
