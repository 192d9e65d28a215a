"""What the weights that ship with the package are worth: CFM with trained and with random tiny encoders.

    python benchmarks/zoo.py                    # both levels of the forge: about half an hour on two cores
    python benchmarks/zoo.py --levels hard      # the level on which detectors are compared
    python benchmarks/zoo.py --seeds 1          # one seed of the mappers: quicker, and noisier
    python benchmarks/zoo.py --train 40         # more good captures to learn from

One detector for all eight sample categories, which no encoder has seen; the captures are forged for this purpose from a
seed that nothing else uses. Only the mappers' seed changes from run to run. Ends with the encoding speed of `tiny_vit`
against DINO ViT-B/8 (random weights: the time is the same), in turn.
"""
import argparse
import tempfile
import time
import warnings

import numpy as np
import torch
from harness import goal

from mmad_nb.data import prepare
from mmad_nb.forge import forge_sample, list_categories, list_defects
from mmad_nb.forge.forge import LEVELS, plan
from mmad_nb.detectors import create_detector
from mmad_nb.detectors.frozen import TRAINING_PRESETS
from mmad_nb.features.zoo import create_encoder, encoder_pair
from mmad_nb.scoring import evaluate

METRICS = ("image_auroc", "pixel_auroc", "aupro@30", "aupro@1")


def captures(categories, train: int, good: int, bad: int, seed: int, level: str = "standard") -> tuple:
    "Training and test samples of all categories, forged and prepared."
    splits = {"train": [], "test": []}
    counts = {"train": {"good": train}, "test": {"good": good} | dict.fromkeys(list_defects(), bad)}
    for entry in plan(categories, counts, seed):
        settings = {name: entry[name] for name in ("category", "defect", "strength", "extent", "seed")}
        raw = forge_sample(**settings, level=level)
        splits[entry["split"]].append(prepare(raw, size=224))
    return splits["train"], splits["test"]


def scores(encoders, train, test, seed: int, cache) -> dict:
    "Category -> the metrics of one unified CFM."
    detector = create_detector("cfm", encoders=encoders, device="cpu", seed=seed, **TRAINING_PRESETS["tiny"])
    detector.fit(train, cache=cache)
    maps = detector.fuse(detector.components(test, cache=cache))
    values, found = detector.image_scores(maps), {}
    for category in dict.fromkeys(sample.category for sample in test):
        rows = [i for i, sample in enumerate(test) if sample.category == category]
        labels, masks = [test[i].anomalous for i in rows], np.stack([test[i].mask for i in rows])
        metrics = evaluate(maps[rows], masks, values[rows], limits=(.3, .01), labels=np.array(labels))
        found[category] = [metrics[name] for name in METRICS]
    return found


def compare(categories, seeds: int, each: int, level: str, kinds=("random", "trained")) -> dict:
    "Prints a table for each kind of weights; returns {kind: mean of every metric}."
    train, test = captures(categories, train=each, good=8, bad=1, seed=20261121, level=level)
    print(f"\nLevel {level}: {len(categories)} categories, {len(train)} good captures to learn from, {len(test)} to test on,"
          f" {seeds} seeds", flush=True)
    means = {}
    for kind in kinds:
        weights = {"random": "random", "trained": None}[kind]
        encoders = encoder_pair("tiny", weights, device="cpu")
        with tempfile.TemporaryDirectory() as cache:
            runs = [scores(encoders, train, test, n, cache) for n in range(seeds)]
        print(f"\n{kind:22s}" + "".join(f"{name:>13s}" for name in METRICS))
        for category in categories:
            print(f"  {category:20s}" + "".join(f"{v:13.3f}" for v in np.mean([run[category] for run in runs], 0)))
        means_of_runs = np.array([np.mean(list(run.values()), 0) for run in runs])     # (seeds, metrics)
        means[kind] = means_of_runs.mean(0)
        print(f"  {'mean':20s}" + "".join(f"{v:13.3f}" for v in means[kind]))
        spread = [f"{low:.3f}-{high:.3f}" for low, high in zip(means_of_runs.min(0), means_of_runs.max(0))]
        print(f"  {'seeds, from - to':20s}" + "".join(f"{text:>13s}" for text in spread), flush=True)
    return means


def speed(repeats: int) -> float:
    "How many photos tiny_vit encodes while DINO ViT-B/8 encodes one; medians, in turn."
    photo, took = torch.rand(1, 3, 224, 224), {}
    networks = {name: create_encoder(name, "random", device="cpu") for name in ("tiny_vit", "vit_base_patch8_224.dino")}
    for n in range(repeats + 1):
        for name, network in networks.items():
            start = time.perf_counter()
            network.encode(photo)
            if n: took.setdefault(name, []).append(time.perf_counter() - start)
    middle = {name: float(np.median(values)) for name, values in took.items()}
    print("\nseconds a photo: " + ", ".join(f"{name} {value:.3f}" for name, value in middle.items()))
    return middle["vit_base_patch8_224.dino"] / middle["tiny_vit"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=10, help="good captures of each category to learn from")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--family", default="sample", help="categories: sample, or held-out (auxiliary, not learned from)")
    parser.add_argument("--levels", nargs="+", default=list(LEVELS), choices=LEVELS, help="of the forge")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.family == "sample": categories = list_categories("sample")
    else:
        from mmad_nb.pretraining.lessons import HELD_OUT
        categories = list(HELD_OUT)
    means = {level: compare(categories, options.seeds, options.train, level) for level in options.levels}
    ratio = speed(options.repeats)
    if "standard" in means:
        image, _, aupro, _ = means["standard"]["trained"]
        goal("zoo-image-auroc", 100 * image, wanted=93, unit=" %")
        goal("zoo-gain", 100 * (image - means["standard"]["random"][0]), wanted=4, unit=" %")
        goal("zoo-aupro30", 100 * aupro, wanted=93, unit=" %")
    goal("zoo-speed", ratio, wanted=8)


if __name__ == "__main__":
    main()
