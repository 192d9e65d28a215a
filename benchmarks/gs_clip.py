"""GS-CLIP's parts and the faults of its release, one at a time.

    python benchmarks/gs_clip.py                       # points alone, one seed
    python benchmarks/gs_clip.py --seeds 3 --each 4 --photo

Learned from the auxiliary categories of the forge, tested on the sample categories; metrics within each category, averaged.
Stage 1 is trained once for each seed, and stage 2 continues from it, so that rows differ in one thing.
"""
import argparse
import tempfile
import time
import warnings

import numpy as np

METRICS = ("image_auroc", "pixel_auroc", "aupro@30")
FAULTS = ("no_grad", "random_tower", "alone", "whole_only", "views_axis", "train_mode", "other_angles")


def samples(family, each, seed) -> list:
    "`each` flawless and `each` defective captures of every category of a family."
    from mmad_nb.data import prepare
    from mmad_nb.forge import forge_sample, list_categories, list_defects
    rng, kinds = np.random.default_rng(seed), [kind for kind in list_defects() if kind != "stain"]   # a stain has no form
    return [prepare(forge_sample(c, "good" if k % 2 else kinds[(n + k // 2) % len(kinds)], seed=int(rng.integers(2**31))), size=224)
            for n, c in enumerate(list_categories(family)) for k in range(2 * each)]


def learned(detector, stage, captures, start, epochs, cache):
    "One stage of a training, from parts that were learned before; the losses of its passes."
    from mmad_nb.core.training import train
    from mmad_nb.detectors.base import Reading
    from mmad_nb.detectors.frozen import Items, held
    found = detector.features(Reading(detector, captures, True), cache)
    detector.begin(found.notes)
    for name, state in start.items(): detector.modules[name].load_state_dict(state)
    plan = detector.stages()[stage]
    curve = train(plan.modules, held(Items(found, plan.item)), plan.loss, epochs=epochs or plan.epochs, batch_size=plan.batch_size, lr=plan.lr,
                  seed=detector.options["seed"], optimizer=plan.optimizer, label=f"stage {stage + 1}")
    detector.fitted = True
    return curve


def judged(detector, captures, cache) -> list:
    "The metrics."
    from mmad_nb.detectors import evaluate_maps, mean_metrics
    parts = detector.components(captures, cache=cache)
    maps = detector.fuse(parts)
    found = mean_metrics(evaluate_maps(maps, detector.image_scores(maps, parts), captures))
    return [found[metric] for metric in METRICS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--each", type=int, default=1, help="flawless and defective captures of each category")
    parser.add_argument("--epochs", type=int, nargs=2, default=(5, 2), help="of both stages")
    parser.add_argument("--prompts", default="geometry", choices=("geometry", "shape", "defect", "learned"))
    parser.add_argument("--photo", action="store_true", help="with the photo")
    parser.add_argument("--cache", help="folder to keep features in")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    from mmad_nb.detectors import create_detector
    known, unknown = samples("auxiliary", options.each, 1), samples("sample", options.each, 2)
    print(f"{len(known)} captures to learn from, {len(unknown)} tested", flush=True)
    with tempfile.TemporaryDirectory() as own:
        cache = options.cache or own
        make = lambda **more: create_detector("gs_clip", device="cpu", photo=options.photo, **more)
        for seed in range(options.seeds):
            def row(title, detector, curve, start):
                "One line of the table."
                values = " | ".join(f"{v:.3f}" for v in judged(detector, unknown, cache))
                print(f"| {title} | {seed} | {curve[0]:.3f} to {curve[-1]:.3f} | {values} | {time.perf_counter() - start:.0f} s |", flush=True)
            start, one = time.perf_counter(), make(prompts=options.prompts, synergy=False, seed=seed)
            curve = learned(one, 0, known, {}, options.epochs[0], cache)
            prompts = {"prompts": {name: value.clone() for name, value in one.modules["prompts"].state_dict().items()}}
            row("renders alone", one, curve, start)
            for fault in ("none", *FAULTS):
                start, one = time.perf_counter(), make(prompts=options.prompts, release=fault, seed=seed)
                if fault == "train_mode":                     # the training is the same, the test is not
                    one.begin([])
                    one.load_state(whole.state()); one.fitted = True
                else: curve = learned(one, 1, known, prompts, options.epochs[1], cache)
                if fault == "none": whole, right = one, curve
                if fault == "train_mode": curve = right
                row("both towers" + (f", release {fault}" if fault != "none" else ""), one, curve, start)


if __name__ == "__main__":
    main()
