"""An epoch of batches from a folder of shards: our thread that reads ahead beside torch's DataLoader, with and without
a training step meanwhile.

    python benchmarks/read_ahead.py

All contenders give the same batches in the same order, which is checked first. "nothing" only takes the batches; "a
step" multiplies matrices on the same core for about as long as a step of a small model lasts. The DataLoader's workers
are one process, which reads two batches ahead as our thread does; it is made anew for every epoch, as `batches` is, or
kept (`persistent_workers`). Each time is that of a whole epoch, start and end included.
"""

import argparse
import tempfile
from pathlib import Path

from common import HERE, limit_threads, machine, side_by_side, significant, table, versions, write_json

CLIPS, SIDE, BATCH = 1024, 64, 32


def as_it_is(clips):
    "DataLoader's `collate_fn`: a batch comes from the set as a whole."
    return clips


class Rows:
    "A folder of shards as DataLoader wants it: a batch of positions at a time."

    def __init__(self, shards):
        self.shards = shards

    def __len__(self):
        return len(self.shards)

    def __getitems__(self, positions):
        import torch

        clips = self.shards.read(torch.tensor(positions), ("frames", "controls", "mask"))
        return clips.frames, clips.mask, clips.controls


def loader(shards, order, workers: int, how: str | None = None, kept: bool = False):
    "A DataLoader over this order."
    from torch.utils.data import DataLoader

    groups = [g.tolist() for g in order.split(BATCH)]
    more = {"prefetch_factor": 2, "multiprocessing_context": how, "persistent_workers": kept} if workers else {}
    return DataLoader(Rows(shards), batch_sampler=groups, collate_fn=as_it_is, num_workers=workers, **more)


def contenders(shards, order) -> dict:
    "Name and what makes an epoch's batches of floats."
    from kvae_nb.data.batches import batches
    from kvae_nb.data.films import take, to_float

    fork, spawn = loader(shards, order, 1, "fork", True), loader(shards, order, 1, "spawn", True)
    floats = lambda made: (to_float(frames) for frames, _, _ in made)
    return {
        "our thread": lambda: (b.x for b in batches(shards, BATCH, order)),
        "no reading ahead": lambda: (take(shards[g], slice(None)).x for g in order.split(BATCH)),
        "DataLoader, no worker": lambda: floats(loader(shards, order, 0)),
        "DataLoader, fork": lambda: floats(loader(shards, order, 1, "fork")),
        "DataLoader, fork, kept": lambda: floats(fork),
        "DataLoader, spawn": lambda: floats(loader(shards, order, 1, "spawn")),
        "DataLoader, spawn, kept": lambda: floats(spawn),
    }


def race(what, times, made, a, n, quick):
    "Seconds of an epoch by each reader while so many products are computed after each batch; prints them."

    def epoch(make):
        for x in make():
            for _ in range(times):
                a @ a
            x[0, 0, 0, 0, 0].item()

    runs = {name: (lambda make=make: epoch(make)) for name, make in made.items()}
    found = side_by_side(runs, 3 if quick else 7, budget=60)
    ours = found["our thread"]["median"]
    rows = [[k, significant(1e3 * r["median"]), significant(r["median"] / ours, 2)] for k, r in found.items()]
    title = f"An epoch of {n} clips of 20 frames, {SIDE}×{SIDE}, in batches of {BATCH}; meanwhile: {what}"
    print(table(title, ["reader", "ms", "× ours"], rows))
    return found


def main(args):
    "Measures, prints and writes."
    import torch

    from kvae_nb.data.films import VideoData, epoch_order
    from kvae_nb.data.shards import write_shards

    n = 128 if args.quick else CLIPS
    rng, a = torch.Generator().manual_seed(0), torch.rand(256, 256)
    part = lambda: VideoData(torch.randint(0, 256, (64, 20, 1, SIDE, SIDE), generator=rng, dtype=torch.uint8))
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(Path(folder) / "set", (part() for _ in range(n // 64)), 256)
        order = epoch_order(n, 0, 0)
        made = contenders(shards, order)
        first = [x.clone() for x in made["our thread"]()]
        for name, epoch in made.items():
            assert all(torch.equal(x, y) for x, y in zip(epoch(), first, strict=True)), name
        results = {what: race(what, times, made, a, n, args.quick) for what, times in (("nothing", 0), ("a step", 40))}
    if not args.quick or args.json:
        path = args.json or HERE / "results" / "read_ahead.json"
        write_json(
            path,
            {
                "command": "python benchmarks/read_ahead.py",
                "machine": machine(1),
                "versions": versions("torch", "numpy"),
                "clips": n,
                "side": SIDE,
                "batch": BATCH,
                "seconds": results,
            },
        )


if __name__ == "__main__":
    limit_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="few clips, few rounds; writes no file unless --json says where"
    )
    parser.add_argument("--json", type=Path, help="where the results go; default: results/read_ahead.json")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    main(args)
