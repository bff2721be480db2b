"""One training step of ours beside the plain Kalman VAE of plain_kvae.py: frames per second, the ratio, and how far
both are from the floor.

    python benchmarks/training_step.py                    # both presets, 1 and 2 threads; writes
    benchmarks/results/training_step.json
    python benchmarks/training_step.py --quick            # preset paper, 1 thread, few rounds, writes nothing
    python benchmarks/training_step.py --later 400        # the same again after 400 steps of training of each

Each contender lives in a process of its own, because what ours tells the memory allocator and the floating-point unit
holds for the whole process; they take turns, A B C A B C …, and while one works the others wait. --one-process puts
them into one.
"""

import argparse
import multiprocessing
import statistics
import sys
import time

from common import HERE, machine, significant, table, versions, write_json

NETWORKS = {"paper": dict(filters=32, alpha="lstm"), "demo": dict(filters=16, alpha="mlp", learn_noise=True)}
CONTENDERS = ("plain", "ours, all frames", "ours")
BATCH, STEPS, SIZE = 32, 20, 32


def our_step(preset: str, all_frames: bool):
    """Ours, as one function of uint8 frames. The only place that knows the interface of kvae_nb's training.

    All parts are trained from the first step on, as in the plain one (the paper's preset lets the network of α wait).
    """
    from dataclasses import replace

    from kvae_nb.core.runtime import tune_cpu
    from kvae_nb.data.films import VideoData, take
    from kvae_nb.training.runs import PRESETS
    from kvae_nb.training.session import prepare
    from kvae_nb.training.step import train_step

    tune_cpu()
    config = PRESETS[preset]
    config = replace(
        config, train=replace(config.train, join={}, device="cpu", **({"decode_frames": 0} if all_frames else {}))
    )
    trainer, _ = prepare(config)
    taken = 0

    def step(frames):
        nonlocal taken
        batch = take(VideoData(frames), torch.arange(len(frames)))
        terms, _ = train_step(trainer, batch, 0.0, taken)
        taken += 1
        return -terms.per_frame.item()

    step.model, step.decoded = trainer.bare, config.train.decode_frames or STEPS
    return step


def make(name: str, preset: str):
    "A contender: a function of uint8 frames that takes a step and returns the loss."
    torch.manual_seed(0)
    return PlainTrainer(**NETWORKS[preset]).step if name == "plain" else our_step(preset, name != "ours")


def give_weights(ours, plain):
    "Copies the weights of our model into the plain one."
    theirs = {
        "conv1": ours.encoder.body[0],
        "conv2": ours.encoder.body[2],
        "conv3": ours.encoder.body[4],
        "enc_mean": ours.encoder.mean,
        "enc_var": ours.encoder.var,
        "dec_start": ours.decoder.start,
        "up1": ours.decoder.up[0],
        "up2": ours.decoder.up[1],
        "up3": ours.decoder.up[2],
        "dec_out": ours.decoder.out,
    }
    network = ours.dynamics.network
    theirs |= {"lstm": network.lstm, "alpha_out": network.out} if plain.alpha == "lstm" else {"mlp": network.net}
    for name, module in theirs.items():
        getattr(plain, name).load_state_dict(module.state_dict())
    # ours has the four pixels of a block in four groups of channels, PyTorch's pixel_shuffle in neighbouring ones
    for module in (plain.up1, plain.up2, plain.up3):
        for p in module.parameters():
            p.copy_(p.unflatten(0, (4, -1)).transpose(0, 1).flatten(0, 1))
    for name in ("A", "C", "a0"):
        getattr(plain, name).copy_(getattr(ours.dynamics, name))


def same_network(preset: str) -> dict:
    """Whether both compute the same numbers with the same weights: largest relative difference of encoder, decoder
    and evidence.
    """
    ours, plain = our_step(preset, True).model, PlainTrainer(**NETWORKS[preset]).model
    torch.set_flush_denormal(False)
    with torch.no_grad():
        give_weights(ours, plain)
        x, g = frames(BATCH, 5).float() / 255, torch.Generator().manual_seed(4)
        a = torch.randn(BATCH, STEPS, 2, generator=g)
        q = ours.encoder(x)
        right = (
            ours.log_likelihood(x, a, torch.ones(BATCH, STEPS, dtype=torch.bool)),
            our_evidence(ours, a),
            q.log_prob(a).sum(-1),
        )
        found = plain.terms(x, a)
    numbers = lambda m: sum(p.numel() for p in m.parameters() if p.requires_grad)
    return {
        "parameters": [numbers(plain), numbers(ours)],
        **{
            k: ((f - r).abs().max() / r.abs().max()).item()
            for k, f, r in zip(("log p(x|a)", "log p(a)", "log q(a|x)"), found, right)
        },
    }


def our_evidence(model, a):
    "log p(a) of ours, for `same_network`."
    from kvae_nb.models.dynamics import evidence_dynamics

    return evidence_dynamics(model.dynamics, a)


def frames(count: int, seed: int):
    "Films of a bouncing ball, uint8 [count, time, 1, size, size]."
    from kvae_nb.data.films import from_simulation
    from kvae_nb.worlds.balls import simulate

    return from_simulation(simulate(sequences=count, steps=STEPS, seed=seed, size=SIZE, workers=1)).frames


def multiply_adds(filters: int) -> tuple[int, int]:
    "Multiply-adds of encoder and decoder for one frame: convolutions and the linear layers next to them."
    conv = lambda side, into, out, kernel=3: side * side * into * out * kernel * kernel
    dense = 2 * filters * (SIZE // 8) ** 2
    encoder = (
        conv(SIZE // 2, 1, filters) + conv(SIZE // 4, filters, filters) + conv(SIZE // 8, filters, filters) + 2 * dense
    )
    decoder = (
        dense
        + sum(conv(side, filters, 4 * filters) for side in (SIZE // 8, SIZE // 4, SIZE // 2))
        + conv(SIZE, filters, 1, 1)
    )
    return encoder, decoder


def step_flop(filters: int, decoded: int) -> float:
    "FLOP of a step, forward and backward (three times the forward), when so many frames of each sequence are decoded."
    encoder, decoder = multiply_adds(filters)
    return 3 * 2 * BATCH * (STEPS * encoder + decoded * decoder)


def matmul_speed(size: int = 1024, rounds: int = 9) -> float:
    "FLOP per second of a float32 matrix product, the best of some rounds."
    A, B = torch.randn(size, size), torch.randn(size, size)

    def seconds():
        start = time.perf_counter()
        A @ B
        return time.perf_counter() - start

    return 2 * size**3 / min(seconds() for _ in range(rounds))


class Here:
    "A contender in this process. Ours lets denormal numbers be rounded to zero, the plain one does not."

    def __init__(self, name, preset, threads, data):
        torch.set_num_threads(threads)
        self.flush, self.data, self.taken, self.make = name != "plain", data, 0, lambda: make(name, preset)

    def step(self):
        torch.set_flush_denormal(self.flush)
        if self.taken == 0:
            self.run = self.make()
        batch = self.data[torch.arange(self.taken * BATCH, (self.taken + 1) * BATCH) % len(self.data)]
        start = time.perf_counter()
        loss = self.run(batch)
        self.taken += 1
        return time.perf_counter() - start, loss

    def close(self):
        pass


def serve(pipe, name, preset, threads, data):
    "What a contender's own process does: a step whenever it is asked for one."
    global torch, PlainTrainer
    import torch
    from plain_kvae import PlainTrainer

    worker = Here(name, preset, threads, torch.from_numpy(data))
    while pipe.recv():
        pipe.send(worker.step())


class There:
    "A contender in a process of its own."

    def __init__(self, name, preset, threads, data):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, name, preset, threads, data.numpy()), daemon=True)
        self.process.start()

    def step(self):
        self.pipe.send(True)
        return self.pipe.recv()

    def close(self):
        self.pipe.send(False)
        self.process.join()


def race(preset: str, threads: int, data, args) -> dict:
    "Times of all contenders, in turn; at the start of training and, if asked for, later."
    torch.set_num_threads(threads)
    speed, place = matmul_speed(), Here if args.one_process else There
    contenders = {name: place(name, preset, threads, data) for name in CONTENDERS}
    found = {"matmul_gflops": speed / 1e9}
    first = {name: c.step() for name, c in contenders.items()}
    for c in contenders.values():
        c.step(), c.step()
    for when in ("start", *(["later"] if args.later else [])):
        if when == "later":
            for c in contenders.values():
                for _ in range(args.later):
                    c.step()
        seen = {name: [] for name in contenders}
        for _ in range(args.rounds):
            for name, c in contenders.items():
                seen[name].append(c.step()[0])
        found[when] = {}
        for name, s in seen.items():
            seconds = statistics.median(s)
            flop = step_flop(NETWORKS[preset]["filters"], decoded[preset] if name == "ours" else STEPS)
            found[when][name] = {
                "median": seconds,
                "min": min(s),
                "rounds": len(s),
                "frames_per_second": BATCH * STEPS / seconds,
                "gflop": flop / 1e9,
                "floor_s": flop / speed,
                "floor_share": flop / speed / seconds,
            }
        for cell in found[when].values():
            cell["times_plain"] = found[when]["plain"]["median"] / cell["median"]
    found["first_step_s"] = {name: t for name, (t, _) in first.items()}
    for c in contenders.values():
        c.close()
    return found


def report(results):
    for key, found in results["times"].items():
        for when in ("start", "later"):
            if when in found:
                later = f"after {results['settings']['later']} steps"
                title = (
                    f"{key}, {'first steps of training' if when == 'start' else later}; "
                    f"matrix products run at {found['matmul_gflops']:.0f} GFLOP/s"
                )
                rows = [
                    [
                        n,
                        f"{c['median'] * 1e3:.0f}",
                        f"{c['frames_per_second']:,.0f}",
                        f"×{significant(c['times_plain'], 3)}",
                        f"{c['gflop']:.1f}",
                        f"{c['floor_s'] * 1e3:.0f}",
                        f"{c['floor_share']:.0%}",
                    ]
                    for n, c in found[when].items()
                ]
                print(
                    table(title, ["", "ms a step", "frames/s", "of plain", "GFLOP", "floor ms", "floor's share"], rows)
                )
    print(
        "\nThe floor is the time the convolutions' multiply-adds alone would take at the speed of a matrix "
        "product. 'ours' decodes a few random frames of"
        "\neach sequence (an unbiased estimate of the same bound), 'ours, all frames' does all the work the "
        "plain one does."
    )


def main(args):
    results = {
        "command": "python benchmarks/training_step.py " + " ".join(sys.argv[1:]),
        "machine": machine(args.threads),
        "versions": versions("kvae_nb", "torch", "numpy"),
        "settings": {
            "batch": BATCH,
            "steps": STEPS,
            "size": SIZE,
            "rounds": args.rounds,
            "later": args.later,
            "one_process": args.one_process,
        },
        "same_network": {},
        "times": {},
    }
    print(
        f"{results['machine']['processor']}, load {results['machine']['load_at_start']:.2f}; torch {torch.__version__}"
    )
    for preset in args.preset:
        check = results["same_network"][preset] = same_network(preset)
        print(
            f"{preset}: {check['parameters'][0]} and {check['parameters'][1]} trained parameters; same "
            "weights, same numbers to " + ", ".join(f"{v:.0e} in {k}" for k, v in check.items() if k != "parameters"),
            flush=True,
        )
        if max(v for k, v in check.items() if k != "parameters") > 1e-4:
            raise SystemExit(f"{preset}: the two models differ; a comparison would mean nothing.")
        for threads in args.threads:
            results["times"][f"{preset}, {threads} thread{'s' * (threads > 1)}"] = race(preset, threads, data, args)
    report(results)
    if args.json:
        write_json(args.json, results)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", nargs="+", choices=list(NETWORKS), help="whose network (default: both)")
    parser.add_argument("--threads", nargs="+", type=int, help="default: 1 2")
    parser.add_argument("--rounds", type=int, help="rounds of A B C A B C …")
    parser.add_argument(
        "--later", type=int, default=0, metavar="STEPS", help="time again after so many steps of training of each"
    )
    parser.add_argument("--one-process", action="store_true", help="all contenders in this process")
    parser.add_argument("--quick", action="store_true", help="preset paper, one thread, few rounds")
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="where the results go (default: benchmarks/results/training_step.json for a full run, else nowhere)",
    )
    args = parser.parse_args()
    if args.json is None and not args.quick and not args.preset and not args.threads:
        args.json = str(HERE / "results" / "training_step.json")
    args.preset, args.threads = (
        args.preset or (["paper"] if args.quick else list(NETWORKS)),
        args.threads or ([1] if args.quick else [1, 2]),
    )
    args.rounds = args.rounds or (5 if args.quick else 20)
    return args


if __name__ == "__main__":
    args = arguments()
    import torch
    from plain_kvae import PlainTrainer

    data = frames(512, 6)
    from kvae_nb.training.runs import PRESETS

    decoded = {p: PRESETS[p].train.decode_frames or STEPS for p in args.preset}
    main(args)
