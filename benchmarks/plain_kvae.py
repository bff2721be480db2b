"""A Kalman VAE as one would write it first: one file, plain PyTorch, float32, nothing tuned. The measure for
benchmarks/training_step.py.

The model is that of Fraccaro et al. 2017 with the evidence log p(a) computed exactly by the filter; every frame is
decoded.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class PlainKVAE(nn.Module):
    def __init__(self, filters=32, alpha="lstm", units=50, window=4, K=3, dim_a=2, dim_z=4, learn_noise=False):
        super().__init__()
        self.alpha, self.window, self.dim_a, self.dim_z, self.filters = alpha, window, dim_a, dim_z, filters
        self.conv1 = nn.Conv2d(1, filters, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(filters, filters, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(filters, filters, 3, stride=2, padding=1)
        self.enc_mean = nn.Linear(filters * 16, dim_a)
        self.enc_var = nn.Linear(filters * 16, dim_a)
        self.dec_start = nn.Linear(dim_a, filters * 16)
        self.up1 = nn.Conv2d(filters, 4 * filters, 3, padding=1)
        self.up2 = nn.Conv2d(filters, 4 * filters, 3, padding=1)
        self.up3 = nn.Conv2d(filters, 4 * filters, 3, padding=1)
        self.dec_out = nn.Conv2d(filters, 1, 1)
        if alpha == "lstm":
            self.lstm = nn.LSTM(dim_a, units, batch_first=True)
            self.alpha_out = nn.Linear(units, K)
        else:
            self.mlp = nn.Sequential(
                nn.Linear(window * dim_a, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, K)
            )
        self.A = nn.Parameter(torch.eye(dim_z).repeat(K, 1, 1))
        self.C = nn.Parameter(0.05 * torch.randn(K, dim_a, dim_z))
        self.a0 = nn.Parameter(torch.zeros(dim_a))
        self.log_q = nn.Parameter(torch.full((dim_z,), 0.08).log(), requires_grad=learn_noise)
        self.log_r = nn.Parameter(torch.full((dim_a,), 0.03).log(), requires_grad=learn_noise)
        for m in self.modules():
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(m.weight)
                nn.init.zeros_(m.bias)

    def encode(self, x):
        "Mean and variance of a for frames [n, 1, 32, 32]."
        h = F.relu(self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))).flatten(1)
        return self.enc_mean(h), 0.03 * torch.sigmoid(self.enc_var(h))

    def decode(self, a):
        "Logits of the pixels for a [n, dim_a]."
        h = self.dec_start(a).view(-1, self.filters, 4, 4)
        for conv in (self.up1, self.up2, self.up3):
            h = F.relu(F.pixel_shuffle(conv(h), 2))
        return self.dec_out(h)

    def weights(self, a):
        "The mixing weights of all steps, from the a before each."
        past = torch.cat([self.a0.expand(len(a), 1, -1), a[:, :-1]], 1)
        if self.alpha == "lstm":
            return torch.softmax(self.alpha_out(self.lstm(past)[0]), -1)
        padded = torch.cat([past[:, :1].expand(-1, self.window - 1, -1), past], 1)
        steps = [self.mlp(padded[:, t : t + self.window].flatten(1)) for t in range(a.shape[1])]
        return torch.softmax(torch.stack(steps, 1), -1)

    def log_evidence(self, a):
        "log p(a) of each sequence: the Kalman filter, step by step."
        alpha, batch, I = self.weights(a), len(a), torch.eye(self.dim_z)
        A, C = torch.einsum("btk,kij->btij", alpha, self.A), torch.einsum("btk,kij->btij", alpha, self.C)
        Q, R = torch.diag(self.log_q.exp()), torch.diag(self.log_r.exp())
        mean, cov, total = torch.zeros(batch, self.dim_z, 1), (20 * I).expand(batch, -1, -1), 0.0
        for t in range(a.shape[1]):
            if t > 0:
                mean, cov = A[:, t] @ mean, A[:, t] @ cov @ A[:, t].mT + Q
            e = a[:, t, :, None] - C[:, t] @ mean
            S = C[:, t] @ cov @ C[:, t].mT + R
            L = torch.linalg.cholesky(S)
            gain = torch.cholesky_solve(C[:, t] @ cov, L).mT
            w = torch.linalg.solve_triangular(L, e, upper=False)
            total = (
                total
                - 0.5 * w.square().sum((1, 2))
                - L.diagonal(dim1=1, dim2=2).log().sum(1)
                - 0.5 * self.dim_a * math.log(2 * math.pi)
            )
            mean = mean + gain @ e
            J = I - gain @ C[:, t]
            cov = J @ cov @ J.mT + gain @ R @ gain.mT
        return total

    def terms(self, x, a=None):
        "log p(x|a), log p(a) and log q(a|x) of each sequence x [batch, time, 1, 32, 32]."
        batch, steps = x.shape[:2]
        frames = x.flatten(0, 1)
        mean, var = self.encode(frames)
        sample = mean + var.sqrt() * torch.randn_like(mean) if a is None else a.flatten(0, 1)
        log_q = -0.5 * ((sample - mean) ** 2 / var + var.log() + math.log(2 * math.pi)).sum(1)
        log_x = -F.binary_cross_entropy_with_logits(self.decode(sample), frames, reduction="none").sum((1, 2, 3))
        return (
            log_x.view(batch, steps).sum(1),
            self.log_evidence(sample.view(batch, steps, -1)),
            log_q.view(batch, steps).sum(1),
        )


class PlainTrainer:
    "Adam with clipped gradients; `step` takes uint8 frames [batch, time, 1, 32, 32]."

    def __init__(self, **options):
        self.model = PlainKVAE(**options)
        self.optimiser = torch.optim.Adam([p for p in self.model.parameters() if p.requires_grad], lr=0.007)

    def step(self, batch):
        x = batch.float() / 255
        log_x, log_a, log_q = self.model.terms(x)
        loss = -(0.3 * log_x + log_a - log_q).sum() / (x.shape[0] * x.shape[1])
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 150.0)
        self.optimiser.step()
        return loss.item()
