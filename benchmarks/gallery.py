"""All detectors on the same forged samples, each under the protocol that fits it; prints a table for each protocol as rows for README.md.

    python benchmarks/gallery.py [--level hard] [--seeds 3] [--each 7]    # the detectors' own settings: hours on two cores
    python benchmarks/gallery.py --everywhere --folder runs               # every protocol that fits; continued where it stopped
    python benchmarks/gallery.py --memory                                 # peak memory of each, in a process of its own
    python benchmarks/gallery.py --short --seeds 1 --each 1 --size 112 --categories bagel gear --shots 1    # does it run? Minutes

Tested: for each category of the "sample" family `each` flawless and `each` defective captures, all kinds of defects in turn. Learned from: `good` flawless captures of each category
with other seeds (unified, per-class), the first k of them (few-shot), the tested captures without their labels (mutual), or all captures of one category with their labels, which
is then not tested (one-vs-rest). The encoders are the embedded ones, which were trained on other categories. Metrics within each category by the exact rule, averaged over the
categories; mean and half range of the seeds. Seconds: first seed, nothing in the cache. Rows that learned from different things must not be ranked against each other.
Then each component of each detector alone, for what was measured in this run.
"""
import argparse
import os
import sys
import tempfile
import time
import warnings

from harness import _forget_peak, _status, run_command

from mmad_nb.data import prepare
from mmad_nb.detectors import create_detector, list_detectors
from mmad_nb.detectors.base import DETECTORS
from mmad_nb.experiments import Splits
from mmad_nb.experiments.gallery import alone_markdown, gallery, numbers_kept, those_known
from mmad_nb.forge import forge_labelled, forge_sample, list_categories

SHORT = dict(epochs=1, steps=5, views=2, synergy_epochs=1, align_epochs=1, reweight_epochs=1, contrast_epochs=1, draws=1)


def samples(categories, good: int, each: int, level: str, size: int) -> Splits:
    "Flawless captures to learn from, and labelled ones of other individuals."
    train = [prepare(forge_sample(c, "good", seed=600_000 + n, level=level), size) for c in categories for n in range(good)]
    return Splits(train, forge_labelled(categories, 2 * each, 2, size=size, level=level), f"forged, {level}", forged=True)


def one(name: str) -> None:
    "Seconds and peak memory of a training on sixteen captures and the prediction of sixteen others, in this process."
    categories, learns = ("bagel", "gear"), DETECTORS[name].learns_from
    test = forge_labelled(categories, 8, 2)
    given = {"good": samples(categories, 8, 1, "standard", 224).train, "labelled": forge_labelled(list_categories("auxiliary"), 2, 1),
             "unlabelled": test, "nothing": []}[learns]
    detector = create_detector(name, device="cpu")
    idle = _status("self", "VmRSS")
    _forget_peak()
    start = time.process_time()
    detector.fit(given)
    fit, peak = time.process_time() - start, _status("self", "VmHWM")
    _forget_peak()
    start = time.process_time()
    detector.fuse(detector.components(test))
    print(f"{fit} {peak} {(time.process_time() - start) / len(test)} {_status('self', 'VmHWM')} {idle} {numbers_kept(detector)}")


def memory(names) -> None:
    "A table of what `one` says of each."
    print("| detector | training, s of CPU | peak MiB of training | one sample, s of CPU | peak MiB of prediction | before both, MiB | numbers kept |\n|---|--:|--:|--:|--:|--:|--:|", flush=True)
    for name in names:
        fit, peak, each, after, idle, kept = map(float, run_command([sys.executable, __file__, "--one", name], timeout=3000).output.split()[-6:])
        print(f"| `{name}` | {fit:.1f} | {peak:.0f} | {each:.2f} | {after:.0f} | {idle:.0f} | {kept:,.0f} |", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--one"]: return one(sys.argv[2])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", default="standard", choices=("standard", "hard"), help="of the forge")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each row")
    parser.add_argument("--each", type=int, default=7, help="flawless and defective captures of each tested category")
    parser.add_argument("--good", type=int, default=8, help="flawless captures of each category to learn from")
    parser.add_argument("--size", type=int, default=224, help="pixels along an edge")
    parser.add_argument("--shots", type=int, nargs="*", default=[1, 4], help="few-shot: k")
    parser.add_argument("--categories", nargs="*", default=list_categories("sample"))
    parser.add_argument("--train-on", nargs="*", default=["gear"], help="one-vs-rest: learned from, one after the other")
    parser.add_argument("--names", nargs="*", default=list_detectors(), help="detectors")
    parser.add_argument("--everywhere", action="store_true", help="each under all protocols that fit")
    parser.add_argument("--short", action="store_true", help="trainings of a few steps")
    parser.add_argument("--memory", action="store_true", help="measure memory alone")
    parser.add_argument("--folder", help="keep the studies here, and continue them")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.memory: return memory(options.names)
    data, start = samples(options.categories, options.good, options.each, options.level, options.size), time.perf_counter()
    print(f"level {options.level}: {len(data.train)} flawless, {len(data.test)} tested, {options.seeds} seeds; "
          f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n", flush=True)
    own = {name: those_known(name, **SHORT) if options.short else {} for name in options.names}
    with tempfile.TemporaryDirectory() as cache:
        found = gallery(data, options.names, range(options.seeds), own, options.everywhere, options.shots, options.train_on,
                        folder=options.folder, cache=cache, device="cpu")
        print(found.markdown(), flush=True)
        if found.models: print(alone_markdown(found.alone(cache)))               # a study that was read from its file has no models
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
