"""The models that the common suites put to the same questions, by name; parts of one's own among them."""

from types import SimpleNamespace

import torch
from torch import nn

from kvae_nb.core.gaussians import Gaussian
from kvae_nb.models.dsvae import DSVAE, DSVAEConfig
from kvae_nb.models.identity import IdentityConfig, IdentityVAE
from kvae_nb.models.kvae import KVAE, KVAEConfig
from kvae_nb.models.protocol import Beliefs, ElboTerms, Generated, Imputed, Posterior, hide
from kvae_nb.models.rnn import RecurrentConfig, RecurrentVAE
from kvae_nb.models.sequence import SequenceVAE
from kvae_nb.models.sequence_inputs import check_sequences
from kvae_nb.models.sequence_parts import SequenceConfig
from kvae_nb.models.skvae import SwitchingKVAE, SwitchingKVAEConfig
from kvae_nb.models.vdsm import VDSM, VDSMConfig

SMALL = dict(size=16, filters=4, units=16, alpha_units=8)
SHORT = dict(size=16, filters=4, units=16, rnn_units=8)
WHO = dict(size=16, dim_a=3, K=4, widths=(16, 8), filters=8, units=32)
PATHS = dict(**WHO, dim_d=4, rnn_units=8, transition_units=8)
TINY = dict(size=16, filters=4, K=3, transition_units=8, posterior_units=8)
SOMEONE = dict(size=16, filters=4, features=12, reader_units=6, rnn_units=8, dim_a=3, dim_f=4)


class LinearEncoder(nn.Module):
    "q(a|x) by one linear layer."

    def __init__(self, config):
        super().__init__()
        self.read = nn.Linear(config.channels * config.size**2, 2 * config.dim_a)

    def forward(self, x):
        mean, var = self.read(x.flatten(-3)).chunk(2, -1)
        return Posterior(mean, 0.03 * var.sigmoid())


class LinearDecoder(nn.Module):
    "Pixels by one linear layer."

    def __init__(self, config):
        super().__init__()
        self.draw, self.frame = (
            nn.Linear(config.dim_a, config.channels * config.size**2),
            (config.channels, config.size, config.size),
        )

    def forward(self, a):
        return self.draw(a).unflatten(-1, self.frame)


class LaplacePixels(nn.Module):
    "Pixels whose error has Laplace's law."

    def __init__(self, config=None):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.1))

    def log_prob(self, x, out):
        return torch.distributions.Laplace(out, self.scale.abs(), validate_args=False).log_prob(x).sum((-3, -2, -1))

    def mean(self, out):
        return out

    def constant_image_score(self, x):
        frames = x.flatten(0, -4)
        return self.log_prob(frames, frames.median(0).values.expand_as(frames)).mean().item()


def make_decoder(config) -> nn.Module:
    "A factory that is a function."
    return LinearDecoder(config)


OWN = dict(encoder="models:LinearEncoder", decoder="models:make_decoder", pixels="models:LaplacePixels")
MODELS = {
    "paper": lambda: KVAE(KVAEConfig(**SMALL)),
    "window": lambda: KVAE(KVAEConfig(alpha="mlp", **SMALL)),
    "constant": lambda: KVAE(KVAEConfig(alpha="constant", K=1, **SMALL)),
    "published bound": lambda: KVAE(KVAEConfig(bound="published", **SMALL)),
    "auto-encoder": lambda: KVAE(KVAEConfig(autoencoder=True, **SMALL)),
    "key points": lambda: KVAE(KVAEConfig(network="points", **SMALL)),
    "mlp, grey": lambda: KVAE(KVAEConfig(network="mlp", pixels="gaussian", learn_noise=True, **SMALL)),
    "colour": lambda: KVAE(KVAEConfig(channels=3, pixels="gaussian", **SMALL)),
    "inferred controls": lambda: KVAE(KVAEConfig(infer_u=2, **SMALL)),
    "controls": lambda: KVAE(KVAEConfig(dim_u=2, **SMALL)),
    "continuous time": lambda: KVAE(KVAEConfig(continuous=True, tick=0.5, **SMALL)),
    "continuous time, controls": lambda: KVAE(
        KVAEConfig(continuous=True, dim_u=2, infer_u=1, alpha="mlp", particles=4, learn_noise=True, **SMALL)
    ),
    "all settings": lambda: KVAE(
        KVAEConfig(
            layers=2,
            kernel=5,
            activation="elu",
            pixels="gaussian",
            pixel_var=0.01,
            alpha_layers=2,
            alpha_dropout=0.2,
            scale=0.3,
            **SMALL,
        )
    ),
    "own parts": lambda: KVAE(KVAEConfig(**{**SMALL, "size": 10}, **OWN)),
    "switching": lambda: SwitchingKVAE(SwitchingKVAEConfig(**TINY)),
    "switching, network": lambda: SwitchingKVAE(SwitchingKVAEConfig(posterior="network", **TINY)),
    "switching, all of it": lambda: SwitchingKVAE(
        SwitchingKVAEConfig(switching="ABCQR", full_noise=True, transitions="mlp", filter="gpb2", dim_u=2, **TINY)
    ),
    "switching, constant": lambda: SwitchingKVAE(
        SwitchingKVAEConfig(transitions="constant", offset=False, posterior="network", straight_through=True, **TINY)
    ),
    "switching, one regime": lambda: SwitchingKVAE(SwitchingKVAEConfig(**{**TINY, "K": 1})),
    "switching, own encoder": lambda: SwitchingKVAE(
        SwitchingKVAEConfig(transition_layers=2, transition_dropout=0.1, **TINY), encoder=LinearEncoder
    ),
    "VAE-RNN": lambda: RecurrentVAE(RecurrentConfig(**SHORT)),
    "AE-RNN": lambda: RecurrentVAE(RecurrentConfig(autoencoder=True, **SHORT)),
    "VAE-RNN, controls": lambda: RecurrentVAE(RecurrentConfig(dim_u=2, network="mlp", pixels="gaussian", **SHORT)),
    "VAE-RNN, own pixels": lambda: RecurrentVAE(
        RecurrentConfig(rnn_layers=2, rnn_dropout=0.1, **SHORT), pixels=LaplacePixels()
    ),
    "dsvae": lambda: DSVAE(DSVAEConfig(**SOMEONE)),
    "dsvae, full": lambda: DSVAE(DSVAEConfig(posterior="full", network="mlp", pixels="bernoulli", **SOMEONE)),
    "identity": lambda: IdentityVAE(IdentityConfig(**WHO)),
    "vdsm": lambda: VDSM(VDSMConfig(**PATHS)),
    "vdsm published": lambda: VDSM(VDSMConfig(posterior="published", first="normal", freeze=False, **PATHS)),
}


class SevenNumbers(nn.Module):
    "The smallest model of what is no film: each step by itself, seven numbers from two with a standard normal prior."

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(dim_u=0)
        self.emission = SimpleNamespace(event=(7,), discrete=False, embedded=7)
        self.encoder, self.decoder = nn.Linear(7, 2), nn.Linear(2, 7)

    def forward(self, x, mask=None, u=None, noise=None):
        x, mask, _ = check_sequences(self, x, mask, u, values=False)
        (noise,) = self.noise(*x.shape[:2]) if noise is None else noise
        mask = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        x = hide(x, mask)
        a = self.posterior(x).sample(noise)
        of_x = Posterior(self.decode(a), torch.ones_like(x)).log_prob(x)
        prior = Posterior(torch.zeros_like(a), torch.ones_like(a)).log_prob(a)
        terms = (of_x, prior, self.posterior(x).log_prob(a), torch.ones_like(prior))
        return ElboTerms(*(torch.where(mask, v, 0.0).sum(1) for v in terms))

    def elbo(self, x, mask=None, u=None, noise=None):
        return self(*check_sequences(self, x, mask, u), noise)

    def noise(self, batch, steps, decode=0, temperature=0.0):
        return (torch.randn(batch, steps, 2, device=self.encoder.weight.device),)

    def beliefs(self, a, var):
        belief = Gaussian(a, torch.diag_embed(var))
        return Beliefs(self.decode(a), belief, belief)

    def impute(self, x, mask=None, u=None):
        x, mask, _ = check_sequences(self, x, mask, u)
        q = self.posterior(hide(x, mask))
        seen = x.new_ones(*x.shape[:2], 1, dtype=torch.bool) if mask is None else mask[..., None]
        belief = self.beliefs(torch.where(seen, q.mean, 0.0), torch.where(seen, q.var, 1.0))
        return Imputed(belief, belief, torch.ones_like(q.mean[..., :1]))

    def generate(self, steps, count=1, u=None, x=None, generator=None, noise=True):
        count = count if x is None else len(x)
        a = torch.randn(count, steps, 2, generator=generator) * bool(noise)
        return Generated(self.decode(a), a, a)

    def posterior(self, x):
        return Posterior(self.encode(x), torch.full_like(self.encode(x), 0.1))

    def encode(self, x):
        return self.encoder(x)

    def decode(self, a):
        return self.decoder(a)

    def parts(self):
        return {"encoder": [*self.encoder.parameters()], "decoder": [*self.decoder.parameters()]}


def sequences(**chosen):
    "What makes a small model of sequences."
    sizes = dict(dim_z=3, rnn_units=(6,), encoder=(5,), decoder=(8,), latent_layers=(7,))
    return lambda: SequenceVAE(SequenceConfig(**(sizes | chosen)))


SEQUENCES = {
    "seven numbers": SevenNumbers,
    "symbols, no latents": sequences(latent="none", emission="categorical(4)"),
    "symbols, independent": sequences(latent="independent", emission="categorical(4)", dim_u=2),
    "symbols, srnn": sequences(latent="srnn", emission="categorical(4)", dim_u=2, clock=3.0),
    "symbols, srnn, filtering": sequences(latent="srnn", emission="categorical(4)", posterior="filtering"),
    "bits, markov": sequences(latent="markov", emission="bernoulli(6)"),
    "bits in two axes, vrnn": sequences(latent="vrnn", emission="bernoulli(2, 3)", history=2),
    "one number, vrnn": sequences(latent="vrnn", emission="normal(1)", posterior="smoothing"),
    "numbers, markov": sequences(latent="markov", emission="normal(2)", dim_u=1, cell="gru"),
    "several, srnn": sequences(latent="srnn", emission="together(place=normal(2), hit=bernoulli(1))"),
}


def observed(model: nn.Module, batch: int, steps: int) -> torch.Tensor:
    "Random sequences of what this model observes."
    if not hasattr(model.emission, "draw"):
        return torch.randn(batch, steps, *model.emission.event)
    features = torch.randn(batch, steps, model.emission.features)
    return model.emission.sample(features, model.emission.draw(batch, steps, like=features))


def awake(name: str) -> nn.Module:
    "The model of this name in evaluation mode, away from its start, where the modes are alike."
    torch.manual_seed(0)
    model = (MODELS | SEQUENCES)[name]()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.rpartition(".")[2] in ("A", "C", "F"):
                p += 0.2 * torch.randn_like(p)
    return model.eval()


def control_width(model: nn.Module) -> int:
    "How many controls it may be given at each step; in continuous time the first is the gap."
    return getattr(model.config, "dim_u", 0) + getattr(model.config, "continuous", False)


def random_controls(model: nn.Module, *size: int) -> torch.Tensor | None:
    "Random controls, and in continuous time random gaps; None for a model without either."
    if not (width := control_width(model)):
        return None
    u = torch.randn(*size, width)
    if getattr(model.config, "continuous", False):
        u[..., 0] = u[..., 0].abs() + 0.1
    return u
