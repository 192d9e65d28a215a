"""What one move of a slider of the ablation lab costs in the kernel, with 100 test samples of 224 x 224.

    python benchmarks/lab.py                    # about two minutes on two cores

The detector is CFM with the tiny encoders and its blur; its components are computed once. A move sets the slider's value
and returns when the fused maps, the image scores, the picture, the cloud's colours, the strip of scores and all metrics
have been handed to the page; what the browser does with them is measured by `tests/test_browser.py`.
"""
import argparse
import time

import numpy as np
from harness import goal

from mmad_nb.data import prepare
from mmad_nb.forge import forge_sample, list_categories, list_defects
from mmad_nb.forge.forge import plan
from mmad_nb.detectors import create_detector
from mmad_nb.lab import AblationLab


def samples(count: int) -> list:
    "Forged captures of all sample categories, good ones and all defects."
    entries = plan(list_categories("sample"), {"test": {"good": 6} | dict.fromkeys(list_defects(), 1)}, seed=20261121)
    raw = (forge_sample(e["category"], e["defect"], e["strength"], e["extent"], e["seed"]) for e in entries[:count])
    return [prepare(one, size=224) for one in raw]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--moves", type=int, default=40)
    options = parser.parse_args()
    test = samples(options.count)
    detector = create_detector("cfm", encoders="tiny", blocks=4, device="cpu", epochs=1)
    detector.fit([sample for sample in test if not sample.anomalous][:8])
    lab = AblationLab(detector, test)
    lab.curve.sweep.result(120)                                        # it runs in the background; not part of a move
    for rule in ("add", "mul"):
        lab.controls["rule"].value, seconds = rule, []
        for alpha in np.linspace(.1, .9, options.moves):
            lab.curve.sweep.result(120)
            start = time.perf_counter()
            lab.controls["alpha"].value = alpha
            seconds.append(time.perf_counter() - start)
        print(f"{len(test)} samples, rule {rule}: median {1e3 * np.median(seconds):.0f} ms of {len(seconds)} moves,",
              f"{1e3 * min(seconds):.0f} to {1e3 * max(seconds):.0f} ms")
        goal(f"lab-move-{rule}", 1e3 * np.median(seconds), wanted=60, unit=" ms (less is better)")


if __name__ == "__main__":
    main()
