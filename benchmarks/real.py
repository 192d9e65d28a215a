"""Real captures: every detector that learns from good samples, on crops of real road frames, with the tiny encoders and with random ones.

    python benchmarks/real.py --root stereo_pothole_datasets     # the whole set, 67 frames
    python benchmarks/real.py                                    # the five frames of ../shared/data/roads, if they are there
    python benchmarks/real.py --epochs 10 --step 200             # fewer passes, other crops

Trained on good crops of some frames and tested on crops of others, see nbs/data/06_roads. Means over the seeds of the training, half
their range behind. The tiny encoders were trained on drawn objects only. Nothing is downloaded.
"""
import argparse
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np

METRICS = {"image_auroc": "image AUROC", "aupro@30": "AUPRO@30", "aupro@1": "AUPRO@1"}
FIVE = Path(__file__).resolve().parents[2] / "shared" / "data" / "roads"
WHERE = ("No road frames here. Clone github.com/ruirangerfan/stereo_pothole_datasets (334 MB, MIT) and give its folder as --root; "
         "mmad_nb.data.Roads reads it, the page nbs/data/06_roads tells how.")


def encoders_of(kind: str, seed: int):
    "Photo, points and words: the weights that ship with the package, or random ones for photo and points."
    from mmad_nb.features.zoo import create_encoder
    weights = {"trained": {}, "random": {"weights": "random", "seed": seed}}[kind]
    return (create_encoder("tiny_vit", device="cpu", **weights), create_encoder("tiny_point_mae", device="cpu", **weights),
            create_encoder("tiny_clip", device="cpu"))


def measured(name: str, kind: str, seed: int, train, test, epochs, cache) -> list:
    "The metrics of one detector, trained once."
    from mmad_nb.detectors import create_detector
    from mmad_nb.detectors.base import DETECTORS
    from mmad_nb.scoring import evaluate
    encoders, known = encoders_of(kind, seed), DETECTORS[name].settings
    wanted = DETECTORS[name].presets.get("tiny", {}) | ({"epochs": epochs} if epochs else {})    # what suits small encoders
    options = {option: value for option, value in wanted.items() if option in known}
    own = encoders if "words" in known else encoders[:1] if "estimator" in known else encoders[:2]
    detector = create_detector(name, own, "cpu", seed=seed, **options)
    detector.fit(train, cache=cache)
    maps = detector.fuse(detector.components(test, cache=cache))
    found = evaluate(maps, np.stack([s.mask for s in test]), detector.image_scores(maps), labels=[s.anomalous for s in test])
    return [found[metric] for metric in METRICS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder with dataset1, dataset2, dataset3")
    parser.add_argument("--side", type=int, default=560, help="of a crop, pixels of the frame")
    parser.add_argument("--step", type=int, help="from one crop to the next; half a side if left out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="passes over the good crops; each detector's own default if left out")
    parser.add_argument("--detectors", nargs="+", help="some of list_detectors(); all that learn from good samples if left out")
    options = parser.parse_args()
    root = options.root or FIVE
    if options.root is None and not (FIVE / "dataset2").is_dir(): raise SystemExit(WHERE)
    warnings.simplefilter("ignore")

    from mmad_nb.data import Roads, Sample
    from mmad_nb.detectors import list_detectors
    from mmad_nb.detectors.base import DETECTORS
    train, test = (Roads(root, split, side=options.side, step=options.step) for split in ("train", "test"))
    used = [sum(map(len, data.frames.values())) for data in (train, test)]
    train, test = list(train), list(test)
    bad = sum(s.anomalous for s in test)
    print(f"mmad_nb {version('mmad_nb')}, crops of {options.side} px: {len(train)} good ones to learn from, {bad} with a pothole and {len(test) - bad} good "
          f"ones to test on, from {used[0]} and {used[1]} frames; {options.seeds} seeds, passes: {options.epochs or 'default'}")
    if sum(used) < 20: print("A handful of frames: crops of one frame are not independent, so these are small-sample numbers.")
    print("\n| detector | encoders | " + " | ".join(METRICS.values()) + " | seconds |\n|---|---|" + "--:|" * (len(METRICS) + 1))
    names = [name for name in list_detectors() if DETECTORS[name].learns_from == "good" and Sample in DETECTORS[name].takes]
    for name in options.detectors or names:
        for kind in ("trained", "random"):
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as cache:
                runs = np.array([measured(name, kind, seed, train, test, options.epochs, cache) for seed in range(options.seeds)])
            cells = [f"{mean:.3f} ± {half:.3f}" for mean, half in zip(runs.mean(0), np.ptp(runs, axis=0) / 2)]
            print(f"| `{name}` | {kind} | " + " | ".join(cells) + f" | {time.perf_counter() - start:.0f} |", flush=True)


if __name__ == "__main__":
    main()
