"""Memory and speed of a training whose features stay on disk, with tensors of paper size and random weights.

    python benchmarks/streaming.py                     # about half an hour on two cores
    python benchmarks/streaming.py --counts 20 40      # a quick look

Memory: `fit` on 200 and on 400 forged samples, one pass over all valid pixels, each in a process of its own. Its resident
memory must not grow with the number of samples. Speed: the time of a step with items read ahead from disk, against items
held in memory, in turn in one process. The encoders have the widths of DINO ViT-B/8 and Point-MAE and four blocks, since
what they compute is not what is measured; the object is small (a key), so that a step takes a second and not ten. Every
sample is cut to the same number of measured pixels: else the peak is that of the largest batch, and among more batches
there is a larger one.
"""
import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from harness import alternate_commands, medians, table

from mmad_nb.data import prepare
from mmad_nb.detectors import create_detector, frozen
from mmad_nb.features.image import ImageEncoder, ViT
from mmad_nb.features.points import PointEncoder, PointMAE
from mmad_nb.forge import forge_sample


PIXELS = 2200  # measured ones of each sample


class Forged(Sequence):
    "Good captures of one category, each forged when it is read, and cut to its first PIXELS measured pixels."
    def __init__(self, count: int): self.count = count
    def __len__(self): return self.count

    def __getitem__(self, i):
        if not 0 <= i < self.count: raise IndexError(i)
        sample = prepare(forge_sample("key", seed=i), size=224)
        kept = sample.valid & (np.cumsum(sample.valid).reshape(sample.valid.shape) <= PIXELS)
        if kept.sum() != PIXELS: raise SystemExit(f"sample {i} has {kept.sum()} measured pixels, not {PIXELS}")
        return replace(sample, xyz=sample.xyz * kept, valid=kept)


def detector():
    "CFM at paper size, with random weights."
    torch.manual_seed(0)
    image = ViT(dim=768, heads=12, depth=4, patch=8, size=224)
    points = PointMAE(dim=384, heads=6, depth=4, groups=1024, group_size=32)
    encoders = (ImageEncoder("random", image, "random weights", device="cpu"),
                PointEncoder("random", points, "random weights", device="cpu"))
    return create_detector("cfm", encoders, "cpu", blocks=4, epochs=1, pixels="all", batch_size=4)


def steps(samples, cache, held: float) -> float:
    "Seconds of the training loop alone, with items held in memory or read ahead."
    usual, most, spent = frozen.train, frozen.HELD, []

    def timed(*arguments, **options):
        start = time.perf_counter()
        result = usual(*arguments, **options)
        spent.append(time.perf_counter() - start)
        return result

    frozen.train, frozen.HELD = timed, held
    try: detector().fit(samples, cache=cache)
    finally: frozen.train, frozen.HELD = usual, most
    return spent[0]


def memory(counts) -> None:
    "Peak memory of `fit` on few and on many samples, each in a process of its own."
    commands = {f"{n} samples": [sys.executable, __file__, "--fit", str(n)] for n in counts}
    runs = alternate_commands(commands, repeats=1, timeout=6000)
    table(runs, "one pass, memory of the process that learns")
    few, many = (run.peak for run in medians(runs).values())
    print(f"\ngoal memory-growth: measured {many / few:.3f}x, wanted at most 1.05x")


def speed() -> None:
    "A step with items held and with items read ahead, in turn."
    with tempfile.TemporaryDirectory() as cache:
        samples, times = Forged(16), {"held": [], "streamed": []}
        detector().fit(samples, cache=cache)  # fills the cache
        for _ in range(3):
            for name, most in (("held", float("inf")), ("streamed", 0)): times[name].append(steps(samples, cache, most) / 4)
    middle = {name: statistics.median(values) for name, values in times.items()}
    print(f"a step of 4 samples: held {middle['held']:.2f} s, streamed {middle['streamed']:.2f} s")
    print(f"\ngoal streamed-step: measured {middle['streamed'] / middle['held']:.3f}x, wanted at most 1.1x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs=2, default=(200, 400))
    parser.add_argument("--only", choices=("memory", "speed"))
    parser.add_argument("--fit", type=int, help="used by this script itself")
    options = parser.parse_args()
    if options.fit:
        detector().fit(Forged(options.fit))
        return
    if options.only != "speed": memory(options.counts)
    if options.only != "memory": speed()


if __name__ == "__main__":
    main()
