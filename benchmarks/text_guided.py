"""The text-guided detector against CFM and a memory bank: accuracy on forged captures, time and memory at paper size.

    python benchmarks/text_guided.py accuracy             # three seeds, eight categories: about forty minutes on two cores
    python benchmarks/text_guided.py accuracy --level hard  # the same on the level on which detectors are compared
    python benchmarks/text_guided.py accuracy --seeds 1   # quicker, and noisier
    python benchmarks/text_guided.py costs                # a few minutes: random weights, the time is the same

Accuracy: every detector is trained unified on all eight sample categories, which no encoder has seen, with the tiny
encoders; metrics are computed within each category and averaged. Only the seed of what is learned changes.
Costs: one inference in a process of its own, in turn (A B A B), with DINO ViT-B/8 and Point-MAE at paper size.
"""
import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path

from harness import Run, alternate_commands, goal, medians, run_command, table

ROWS = {
    "cfm": {"detector": "cfm"},
    "cfm, 8 blocks": {"detector": "cfm", "blocks": 8},
    "text_guided": {"detector": "text_guided"},
    "text_guided, 12 blocks": {"detector": "text_guided", "blocks": 12},
    "text_guided, balanced": {"detector": "text_guided", "balance": True},
    "text_guided, no GACM": {"detector": "text_guided", "gacm": False},
    "text_guided, words alone": {"detector": "text_guided", "weights": {"alpha": 0.0}},
    "memory_bank": {"detector": "memory_bank"},
}


# ---- accuracy -------------------------------------------------------------------------------------------------------

def accuracy(options) -> None:
    from zoo import captures

    from mmad_nb.forge import list_categories
    from mmad_nb.experiments import Splits, compare, comparison_table, difference_table
    warnings.simplefilter("ignore")
    train, test = captures(list_categories(options.family), train=10, good=8, bad=1, seed=20261121, level=options.level)
    print(f"Level {options.level}: {len(train)} good captures to learn from, {len(test)} to test on, {options.seeds} seeds", flush=True)
    found, rows = {}, {title: ROWS[title] for title in options.rows or ROWS}
    with tempfile.TemporaryDirectory() as cache:
        for title, row in rows.items():
            found |= compare({title: row}, Splits(train, test, "forged"), range(options.seeds), cache=options.cache or cache, device="cpu")
            record = found[title].records[-1]
            print(comparison_table({title: found[title]}), f"\n{record['fit_seconds']} s of training, {record['megabytes']} MB learned", flush=True)
    print("\n" + comparison_table(found))
    if "cfm" in found: print("\n" + difference_table(found, "cfm"))
    if {"cfm", "text_guided"} <= set(found):
        for name in ("image_auroc", "aupro@1"):
            gain = 100 * (found["text_guided"].spread(name).mean - found["cfm"].spread(name).mean)
            goal(f"text_guided-{name}-above-cfm", gain, wanted=0, unit=" points")


# ---- time and memory ------------------------------------------------------------------------------------------------

def make(folder: Path) -> None:
    "One capture of about 20,000 valid pixels."
    from cfm import make as make_all
    make_all(folder)


def detector_at_paper_size(kind: str, folder: Path):
    "A detector with random weights in the published sizes, as if it had been trained."
    import torch
    import torch.nn.functional as F

    from mmad_nb.detectors import create_detector
    from mmad_nb.features.zoo import create_encoder
    from mmad_nb.prompts.states import PromptText
    encoders = (create_encoder("vit_base_patch8_224.dino", folder / "dino_vitbase8_pretrain.pth", "cpu"),
                create_encoder("point_mae", folder / "pretrain.pth", "cpu"))
    sizes = dict(blocks=8, group_size=32) if kind == "text_guided-pruned" else dict(blocks=12, group_size=128)
    if kind == "cfm":
        detector = create_detector("cfm", encoders, "cpu", **sizes)
        detector.begin([])
    else:
        detector = create_detector("text_guided", (*encoders, "ViT-L-14-336.openai"), "cpu", **sizes)
        detector.text["bagel"] = PromptText(F.normalize(torch.randn(1, 14, 768), dim=-1), None)
        detector.begin([], text_dim=768)
    detector.modules.eval().requires_grad_(False)
    detector.fitted = True
    return detector


def memory_bank_at_paper_size(folder: Path):
    "A bank as large as 2656 training samples with 40 % of valid patches leave behind at a coreset of 10 %."
    import torch

    from mmad_nb.detectors import create_detector
    from mmad_nb.features.zoo import create_encoder
    encoders = (create_encoder("vit_base_patch8_224.dino", folder / "dino_vitbase8_pretrain.pth", "cpu"),
                create_encoder("point_mae", folder / "pretrain.pth", "cpu"))
    detector = create_detector("memory_bank", encoders, "cpu")
    detector.banks = {"rgb": torch.randn(int(2656 * 784 * 0.4 * 0.1), 768), "xyz": torch.randn(int(2656 * 1024 * 0.1), 1152)}
    detector.scales, detector.fitted = {"rgb": 1.0, "xyz": 1.0}, True
    return detector


def infer(kind: str, folder: Path) -> dict:
    from cfm import our_sample, timed
    from dataclasses import replace
    detector = memory_bank_at_paper_size(folder) if kind == "memory_bank" else detector_at_paper_size(kind, folder)
    sample = replace(our_sample(folder), category="bagel")
    _, took = timed(lambda: detector.image_scores(detector.fuse(detector.components([sample]))))
    return took | {"learned_megabytes": sum(v.numel() * v.element_size() for v in detector.state().values()) / 1e6}


def costs(options) -> None:
    folder = Path(tempfile.mkdtemp(prefix="text-guided-benchmark-"))
    command = lambda *child: [sys.executable, __file__, "child", *child, str(folder)]
    run_command(command("make"))
    kinds = ("cfm", "text_guided", "text_guided-pruned", "memory_bank")
    whole = alternate_commands({kind: command("infer", kind) for kind in kinds}, repeats=options.repeats)
    said = lambda run: json.loads(run.output.strip().splitlines()[-1])
    runs = {name: [Run(said(run)["seconds"], run.peak) for run in rs] for name, rs in whole.items()}
    table(runs, "one inference, 12 blocks and 128 points a group; pruned: 8 blocks, 32 points")
    print("learned, MB: " + ", ".join(f"{name} {said(rs[0])['learned_megabytes']:.1f}" for name, rs in whole.items()))
    middle = medians(runs)
    for name in kinds[1:]:
        print(f"{name}: {middle[name].seconds / middle['cfm'].seconds:.2f}x the time of cfm,"
              f" {middle[name].peak / middle['cfm'].peak:.2f}x its peak memory")
    goal("text_guided-speed", middle["cfm"].seconds / middle["text_guided"].seconds, wanted=1 / 1.3)
    goal("text_guided-memory", middle["cfm"].peak / middle["text_guided"].peak, wanted=1 / 1.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("accuracy")
    one.add_argument("--seeds", type=int, default=3)
    one.add_argument("--family", default="sample", choices=("sample", "auxiliary"))
    one.add_argument("--level", default="standard", choices=("standard", "hard"), help="of the forge")
    one.add_argument("--rows", nargs="+", choices=ROWS, help="some of the rows only")
    one.add_argument("--cache", help="folder to keep features in")
    parts.add_parser("costs").add_argument("--repeats", type=int, default=3)
    child = parts.add_parser("child")
    child.add_argument("what", nargs="+")
    options = parser.parse_args()
    if options.part == "accuracy": return accuracy(options)
    if options.part == "costs": return costs(options)
    what, *rest, folder = options.what
    print(json.dumps((make(Path(folder)) if what == "make" else infer(rest[0], Path(folder))) or {}))


if __name__ == "__main__":
    main()
