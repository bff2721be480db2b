"""Frames per CPU second in training, one thread: sequence models of kvae_nb beside pyro's deep Markov model, and the
same model in PyTorch alone. All but the last have the sizes of pyro's tutorial. They see the same batches of chorales,
one after the other, in one process; a round is one training step of each on the same batch.

    pip install -c constraints.txt -e . -r benchmarks/requirements.txt
    python benchmarks/sequences.py --path ../shared/data/jsb-chorales-quarter.json

Only the frames of the sequences are counted, not the padding behind the shorter ones. `--path none` takes random notes
of the same lengths instead of the file. Writes results/sequences.json unless --json says otherwise.
"""

from common import HERE, limit_threads, machine, significant, table, versions, write_json

limit_threads()

import argparse  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

import torch  # noqa: E402
from deep_markov import EMISSION, NOTES, RNN, TRANSITION, PlainDMM, Z, pyro_step  # noqa: E402

from kvae_nb.core.runtime import tune_cpu  # noqa: E402
from kvae_nb.models.sequence import SequenceVAE  # noqa: E402
from kvae_nb.models.sequence_parts import SequenceConfig  # noqa: E402

BATCH = 20
SIZES = dict(dim_z=Z, rnn_units=(RNN,), encoder=(NOTES,), decoder=(EMISSION, EMISSION), latent_layers=(TRANSITION,))
MUSIC = dict(dim_z=32, rnn_units=(128,), encoder=(128,), decoder=(128,), latent_layers=(128,))
OURS = {
    "kvae_nb dmm": SequenceConfig("markov", cell="rnn", residual=False, **SIZES),
    "kvae_nb dmm, posterior corrects the prior": SequenceConfig("markov", cell="rnn", **SIZES),
    "kvae_nb srnn": SequenceConfig("srnn", cell="rnn", **SIZES),
    "kvae_nb srnn of preset chorales": SequenceConfig("srnn", **MUSIC),
}


def pieces(path: str) -> list:
    "The training sequences of the file as tensors of notes [time, 88], or random ones of their lengths."
    if path == "none":
        g = torch.Generator().manual_seed(0)
        lengths = torch.randint(30, 130, (BATCH * 10,), generator=g).tolist()
        return [(torch.rand(n, NOTES, generator=g) < 0.045).float() for n in lengths]
    from kvae_nb.data.chorales import read_chords

    data = read_chords(path)
    return [data.x[k, : data.lengths[k]].float() for k in (data.part == 0).nonzero()[:, 0].tolist()]


def batches(found: list, rounds: int) -> list:
    "For each round notes [20, time, 88], padded by zeros, and their lengths."
    order = torch.cat([torch.randperm(len(found), generator=torch.Generator().manual_seed(k)) for k in range(9)])
    chosen = [[found[k] for k in rows.tolist()] for rows in order.split(BATCH)[:rounds]]
    pad = torch.nn.utils.rnn.pad_sequence
    return [(pad(some, batch_first=True), torch.tensor([len(v) for v in some])) for some in chosen]


def trained(model, loss, lr=3e-4):
    "A function of notes and lengths that takes one step of Adam with clipped gradients."
    optimiser = torch.optim.Adam(model.parameters(), lr, fused=True)

    def step(x, lengths):
        optimiser.zero_grad()
        found = loss(x, lengths)
        found.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        return found.item()

    step.parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return step


def our_step(config: SequenceConfig):
    "One of ours; the mask says where the padding is."
    model = SequenceVAE(config, None if config.emission else distribution())
    return trained(model, lambda x, n: -model(x, torch.arange(x.shape[1]) < n[:, None]).elbo.sum())


def distribution():
    "88 bits."
    from kvae_nb.models.distributions import emission

    return emission(f"bernoulli({NOTES})")


def contenders(only: list[str]) -> dict:
    "Name -> step. Pyro is left out, with a line, where it is not installed."
    makers = {"pyro's DMM": pyro_step, "the same in PyTorch": lambda: trained(m := PlainDMM(), m.loss)}
    makers |= {name: (lambda c=config: our_step(c)) for name, config in OURS.items()}
    found = {}
    for name, make in makers.items():
        if only and not any(name.startswith(v) for v in only):
            continue
        torch.manual_seed(0)
        try:
            found[name] = make()
        except ModuleNotFoundError as error:
            print(f"{name}: left out, {error}")
    return found


def measure(steps: dict, data: list) -> dict:
    "Frames per CPU second of each round; the first two rounds are not counted."
    found = {name: [] for name in steps}
    for k, (x, lengths) in enumerate(data):
        for name, step in steps.items():
            start = time.process_time()
            step(x, lengths)
            spent = time.process_time() - start
            found[name] += [lengths.sum().item() / spent] if k >= 2 else []
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default="../shared/data/jsb-chorales-quarter.json", help="the chorales, or none")
    parser.add_argument("--rounds", type=int, default=22)
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of names")
    parser.add_argument("--json", help="where to write the results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tune_cpu()
    where, data = machine(1), batches(pieces(given.path), given.rounds)
    steps = contenders(given.only)
    found = measure(steps, data)
    median = {name: statistics.median(v) for name, v in found.items()}
    base = median.get("pyro's DMM")
    rows = [
        [n, f"{steps[n].parameters:,}", significant(m), significant(m / base) if base else "–"]
        for n, m in median.items()
    ]
    print(table("training, frames per CPU second", ["", "parameters", "median", "× pyro"], rows))
    path = given.json or (None if given.only else HERE / "results" / "sequences.json")
    if path:
        speeds = {
            n: {"median": median[n], "times_pyro": base and median[n] / base, "rounds": found[n]}
            | {"parameters": steps[n].parameters}
            for n in steps
        }
        settings = {"batch": BATCH, "rounds": given.rounds, "counted": given.rounds - 2, "data": given.path}
        write_json(
            path,
            {
                "command": f"python benchmarks/sequences.py {' '.join(sys.argv[1:])}".strip(),
                "machine": where,
                "versions": versions("kvae_nb", "torch", "pyro-ppl"),
                "settings": settings | {"sizes": json.loads(json.dumps(SIZES))},
                "frames_per_cpu_second": speeds,
            },
        )


if __name__ == "__main__":
    main()
