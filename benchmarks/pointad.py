"""Zero-shot by views: learned against hand-written prompts, points alone against points with the photo.

    python benchmarks/pointad.py                  # three seeds, standard level
    python benchmarks/pointad.py --level hard
    python benchmarks/pointad.py --seeds 1 --each 4   # quicker, and noisier

Three splits, none of which tests a category that was learned from:
- auxiliary: learned from the auxiliary categories of the forge (the embedded encoder was trained on other individuals of these), tested on the sample categories;
- halves: learned from half of the sample categories, tested on the other half, and the other way round (the encoder knows neither);
- clouds: the same with the forge's closed clouds.
The release's average over the views of different objects is trained beside the right one. Metrics within each category, averaged.
"""
import argparse
import tempfile
import time
import warnings

import numpy as np

METRICS = ("image_auroc", "pixel_auroc", "aupro@30")
KINDS = {"hand-written": {"prompts": "written"}, "learned": {}, "learned, averaged as in the release": {"averaging": "release"}}
FUSIONS = {"points": {"rgb": 0.}, "with photo": {}, "photo": {"rgb": 1.}}


def samples(family, each, seed, level) -> list:
    "`each` flawless and `each` defective captures of every category of a family."
    from mmad_nb.data import prepare
    from mmad_nb.forge import forge_sample, list_categories, list_defects
    rng, kinds = np.random.default_rng(seed), list_defects()
    return [prepare(forge_sample(c, "good" if k % 2 else kinds[(n + k // 2) % len(kinds)], seed=int(rng.integers(2**31)), level=level), size=224)
            for n, c in enumerate(list_categories(family)) for k in range(2 * each)]


def clouds(each, seed) -> list:
    "The same of closed clouds."
    from mmad_nb.forge.forge_clouds import forge_cloud, list_cloud_categories, list_cloud_defects
    rng, kinds = np.random.default_rng(seed), list_cloud_defects()
    return [forge_cloud(c, "good" if k % 2 else kinds[(n + k // 2) % len(kinds)], seed=int(rng.integers(2**31)), points=6000)
            for n, c in enumerate(list_cloud_categories()) for k in range(2 * each)]


def halves(captures) -> list:
    "Two splits: the categories with even numbers to learn from and the others to test, and the other way round."
    names = list(dict.fromkeys(c.category for c in captures))
    return [([c for c in captures if names.index(c.category) % 2 == i], [c for c in captures if names.index(c.category) % 2 != i]) for i in (0, 1)]


def judged(kind, seed, train, test, cache) -> dict:
    "Fusion -> metrics of one training."
    from mmad_nb.detectors import create_detector, evaluate_maps, mean_metrics
    detector = create_detector("pointad", device="cpu", seed=seed, **KINDS[kind]).fit(train, cache=cache)
    parts, found = detector.components(test, cache=cache), {}
    for title, weights in FUSIONS.items() if "photo" in parts else [("points", {})]:
        maps = detector.fuse(parts, **weights)
        found[title] = mean_metrics(evaluate_maps(maps, detector.image_scores(maps, parts, **weights), test))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--each", type=int, default=7, help="flawless and defective captures of each tested category")
    parser.add_argument("--level", default="standard", choices=("standard", "hard"), help="of the forge")
    parser.add_argument("--cache", help="folder to keep features in")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    auxiliary, tested = samples("auxiliary", 4, 1, options.level), samples("sample", options.each, 2, options.level)
    splits = {"auxiliary": [(auxiliary, tested)], "halves": halves(tested)}
    if options.level == "standard": splits["clouds"] = halves(clouds(options.each, 3))
    print(f"level {options.level}: {len(auxiliary)} auxiliary captures, {len(tested)} tested, {options.seeds} seeds", flush=True)
    with tempfile.TemporaryDirectory() as own:
        for name, pairs in splits.items():
            for kind in KINDS:
                rows, start = {}, time.perf_counter()
                for seed in range(1 if kind == "hand-written" else options.seeds):
                    runs = [judged(kind, seed, *pair, options.cache or own) for pair in pairs]
                    for title in runs[0]: rows.setdefault(title, []).append([np.nanmean([run[title].get(m, np.nan) for run in runs]) for m in METRICS])
                for title, values in rows.items():
                    cells = [f"{np.mean(v):.3f} ± {np.ptp(v) / 2:.3f}" for v in zip(*values)]
                    print(f"| {name} | {kind} | {title} | " + " | ".join(cells) + " |", flush=True)
                print(f"  ({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
