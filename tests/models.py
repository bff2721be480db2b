"""The models that the common suites put to the same questions, by name; parts of one's own among them."""

import torch
from torch import nn

from kvae_nb.models.kvae import KVAE, KVAEConfig
from kvae_nb.models.protocol import Posterior
from kvae_nb.models.rnn import RecurrentConfig, RecurrentVAE
from kvae_nb.models.skvae import SwitchingKVAE, SwitchingKVAEConfig

SMALL = dict(size=16, filters=4, units=16, alpha_units=8)
SHORT = dict(size=16, filters=4, units=16, rnn_units=8)
TINY = dict(size=16, filters=4, K=3, transition_units=8, posterior_units=8)


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
        return torch.distributions.Laplace(out, self.scale.abs()).log_prob(x).sum((-3, -2, -1))

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
}


def awake(name: str) -> nn.Module:
    "The model of this name in evaluation mode, away from its start, where the modes are alike."
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.rpartition(".")[2] in ("A", "C"):
                p += 0.2 * torch.randn_like(p)
    return model.eval()
