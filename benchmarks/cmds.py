"""CMDS-AD against CFM, the text-guided detector and a memory bank from 1, 2 and 4 good samples; what its parts are worth; memory at paper size.

    python benchmarks/cmds.py accuracy                                    # hard level, two categories, three seeds
    python benchmarks/cmds.py accuracy --level standard --shots 4 --seeds 1
    python benchmarks/cmds.py grids                                       # mapping at patches against finer grids
    python benchmarks/cmds.py generated                                   # how many generated photos; the real stream is the same in all
    python benchmarks/cmds.py leak                                        # an adapter that saw more than the k photos
    python benchmarks/cmds.py memory                                      # paper size, random weights, one process for each part

Accuracy: one model for each category, k and seed, tiny parts; the same good samples in sorted order for all detectors. Rows that differ in the fusion
alone share their models. Only the seed of what is learned changes. `--save FILE` keeps every record as JSON.
"""
import argparse
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

from harness import goal, run_command, table

METRICS = ("image_auroc", "pixel_auroc", "aupro@30", "aupro@1")
PEERS = ("cfm", "text_guided", "memory_bank")


# ---- accuracy -------------------------------------------------------------------------------------------------------

def data_of(options):
    from zoo import captures

    from mmad_nb.experiments import Splits
    train, test = captures(options.categories, train=max(options.shots), good=6, bad=1, seed=20261129, level=options.level)
    return Splits(train, test, f"forged, {options.level} level")


def accuracy(options) -> None:
    from mmad_nb.experiments import compare, comparison_table, difference_table
    from mmad_nb.experiments.dual_stream import RULE_ROWS, STREAM_ROWS, compare_fusions, lambda_rows
    warnings.simplefilter("ignore")
    data, seeds, start = data_of(options), tuple(range(options.seeds)), time.process_time()
    print(f"Level {options.level}: {', '.join(options.categories)}; k = {options.shots}, {len(seeds)} seeds, {len(data.test)} test captures", flush=True)
    rows = {"cmds": {}} | {f"cmds, {k}": v for k, v in (STREAM_ROWS | RULE_ROWS).items() if v} | {
        f"cmds, λ {k}": v for k, v in lambda_rows((0, .3, 1)).items()}
    with tempfile.TemporaryDirectory() as spare:
        cache, common = options.cache or spare, dict(shots=options.shots, device="cpu")
        found = {}
        for name in PEERS:
            found |= compare({name: {"detector": name}}, data, seeds, protocol="few-shot", cache=cache, **common)
            print(comparison_table({name: found[name]}, METRICS), flush=True)
        found |= compare_fusions(rows, data, seeds=seeds, cache=cache, estimator="auto", **common)
        print(comparison_table({"cmds": found["cmds"]}, METRICS), flush=True)
        if options.mlp: found |= {"cmds, MLP": compare_fusions({"cmds": {}}, data, seeds=seeds, cache=cache, estimator="auto", mapper="mlp", **common)["cmds"]}
    if options.save: options.save.write_text(json.dumps({title: study.records for title, study in found.items()}))
    for group in found["cmds"].every("group"):
        part = {title: only(study, group) for title, study in found.items()}
        print(f"\n{group}\n" + comparison_table(part, METRICS), flush=True)
        print("\n" + difference_table(part, "cmds", METRICS), flush=True)
    seconds = [record["fit_seconds"] for record in found["cmds"].records if record["group"] == f"{max(options.shots)}-shot"]
    print(f"\ntraining for k = {max(options.shots)}: {sorted(seconds)[len(seconds) // 2]:.0f} s (median); {time.process_time() - start:.0f} s of CPU time in all")
    report(found)


def only(study, group: str):
    "The records of one k."
    from mmad_nb.experiments import Study
    return Study(study.settings, study.data, study.of(group=group), study.versions, study.provenance)


def report(found: dict) -> None:
    "A line for each wish."
    groups = found["cmds"].every("group")
    value = lambda title, metric, group: 100 * found[title].spread(metric, group=group).mean
    for metric in ("image_auroc", "aupro@30"):
        rises = [value("cmds", metric, b) - value("cmds", metric, a) for a, b in zip(groups, groups[1:])]
        if rises: goal(f"{metric}-grows-with-k", min(rises), wanted=0, unit=" points")
    for group in groups:
        goal(f"both-streams-above-estimated-aupro@1, {group}", value("cmds", "aupro@1", group) - value("cmds, w/o real stream", "aupro@1", group), wanted=5, unit=" points")
        one = max(value(f"cmds, {side}", "aupro@30", group) for side in ("2D", "3D"))
        goal(f"product-above-each-side-aupro@30, {group}", value("cmds", "aupro@30", group) - one, wanted=0, unit=" points")
        for peer in PEERS:
            for metric in ("image_auroc", "aupro@1"):
                goal(f"cmds-above-{peer}-{metric}, {group}", value("cmds", metric, group) - value(peer, metric, group), wanted=0, unit=" points")


# ---- grids ----------------------------------------------------------------------------------------------------------

def grids(options) -> None:
    "The real stream of one category, trained and tested at patches and on finer grids."
    import torch

    from mmad_nb.detectors import create_detector
    from mmad_nb.experiments.protocols import record_of
    warnings.simplefilter("ignore")
    options.shots = [1]
    data, maps = data_of(options), {}
    with tempfile.TemporaryDirectory() as spare:
        for side in options.sides:
            start = time.process_time()
            detector = create_detector("cmds", device="cpu", estimator=None, side=side or None, steps=options.steps).fit(data.train[:1], cache=options.cache or spare)
            seconds, record = time.process_time() - start, record_of(detector, data.test, {}, options.cache or spare)
            maps[side] = detector.fuse(detector.components(data.test, cache=options.cache or spare))
            r = torch.corrcoef(torch.stack([maps[side].flatten(), maps[options.sides[0]].flatten()]))[0, 1]
            print(f"grid {side or 'of patches, 28'}: {seconds:.0f} s of CPU time for {options.steps} steps, correlation of the maps with the first row's {r:.3f};",
                  ", ".join(f"{name} {record['metrics']['exact'][name]:.3f}" for name in METRICS), flush=True)


# ---- generated photos ------------------------------------------------------------------------------------------------

def generated(options) -> None:
    "The estimated stream taught with 0, 1, 3 and 5 generated photos for each given one."
    from mmad_nb.experiments import comparison_table
    from mmad_nb.experiments.dual_stream import STREAM_ROWS, compare_fusions
    warnings.simplefilter("ignore")
    rows = {"both streams": {}, "estimated alone": STREAM_ROWS["w/o real stream"]}
    data, seeds, start = data_of(options), tuple(range(options.seeds)), time.process_time()
    with tempfile.TemporaryDirectory() as spare:
        for number in (0, 1, 3, 5):
            more = {"augment": True, "generated": number} if number else {}
            found = compare_fusions(rows, data, seeds=seeds, shots=options.shots, device="cpu", cache=options.cache or spare, estimator="auto", **more)
            for group in found["both streams"].every("group"):
                part = {title: only(study, group) for title, study in found.items()}
                print(f"{number} generated, {group}\n" + comparison_table(part, METRICS), flush=True)
    print(f"{time.process_time() - start:.0f} s of CPU time")


def leak(options) -> None:
    "A memory of 2 photos and 10 variants of theirs, drawn by a generator that saw nothing, the 2, or all 10 photos of the split."
    import numpy as np
    import torch

    from mmad_nb.data import prepare
    from mmad_nb.features import create_encoder
    from mmad_nb.forge import forge_sample
    from mmad_nb.pretraining.encoders import novelty
    from mmad_nb.streams import create_generator
    encoder = create_encoder("tiny_vit", device="cpu")
    photos = lambda samples: torch.from_numpy(np.stack([sample.rgb for sample in samples]))
    encode = lambda photos: torch.cat([encoder.encode(photos[i:i + 10])[0] for i in range(0, len(photos), 10)])
    defects = ["dent", "bump", "hole", "stain", "scratch", "crack"]
    for category in options.categories:
        make = lambda seed, defect="good": prepare(forge_sample(category, defect, seed=seed, level=options.level), size=224)
        tests, good = encode(photos([make(400 + k) for k in range(24)] + [make(500 + k, defects[k % 6]) for k in range(36)])), 24

        def auroc(pictures):
            memory = list(encode(pictures))
            scores = torch.stack([novelty(one, memory).flatten().topk(10).values.mean() for one in tests])
            return (scores[good:, None] > scores[None, :good]).float().mean().item()
        for split in range(options.seeds):
            ten = photos([make(300 + 20 * split + k) for k in range(10)])
            two, found = ten[:2], {"the 2 photos": auroc(ten[:2])}
            for title, seen in (("not adapted", None), ("adapted on the 2", two), ("adapted on all 10", ten)):
                generator = create_generator("tiny", device="cpu")
                if seen is not None: generator.adapt(seen)
                found[title] = auroc(torch.cat([two, generator.variants(two, n=5, steps=30).flatten(0, 1)]))
            found["all 10 photos"] = auroc(ten)
            print(f"{category}, split {split}:", ", ".join(f"{title} {value:.3f}" for title, value in found.items()), flush=True)


# ---- memory ---------------------------------------------------------------------------------------------------------

def part(kind: str) -> None:
    "One process: a paper-size detector with random weights takes one training step, or tests one sample."
    import torch

    from mmad_nb.data import prepare
    from mmad_nb.detectors import create_detector
    from mmad_nb.features.image import ImageEncoder
    from mmad_nb.features.normals import surface_normals
    from mmad_nb.forge import forge_sample
    from mmad_nb.streams.estimator import NormalEstimator
    if kind == "import": return
    import timm
    network = timm.create_model("vit_base_patch8_224.dino", pretrained=False)

    sample = prepare(forge_sample("bagel", seed=1), 224)
    normals = surface_normals(torch.from_numpy(sample.xyz), torch.from_numpy(sample.valid))[None] + torch.tensor([0., 0., -1e-3]).view(3, 1, 1)
    stand_in = NormalEstimator("stand-in", lambda photo: normals, "stand-in", "none: the estimator is measured by itself")
    encoders = (ImageEncoder("dino, random", network, "random weights", "cpu"), stand_in)
    detector = create_detector("cmds", encoders, "cpu", batch_size=1, steps=1, draws=1)
    if kind == "train": detector.fit([sample])
    else:
        detector.begin([])
        detector.fitted = True
        detector.fuse(detector.components([sample]))


def memory(options) -> None:
    runs = {kind: [run_command([sys.executable, __file__, "part", kind], timeout=1500)] for kind in ("import", "train", "test")}
    table(runs)
    for kind in ("train", "test"): goal(f"8-GB-over-peak-of-a-paper-size-{kind}", 8 * 1024 / runs[kind][0].peak, wanted=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("accuracy", "generated", "grids", "leak", "memory", "part"))
    parser.add_argument("kind", nargs="?", choices=("import", "train", "test"))
    parser.add_argument("--level", default="hard", choices=("hard", "standard"))
    parser.add_argument("--categories", nargs="+", default=["carrot", "gear"])
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--mlp", action="store_true", help="train the plain mapper, too")
    parser.add_argument("--sides", nargs="+", type=int, default=[0, 56, 112], help="grids; 0: patches")
    parser.add_argument("--steps", type=int, default=60, help="of `grids`")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    if options.what == "part": part(options.kind)
    else: {"accuracy": accuracy, "generated": generated, "grids": grids, "leak": leak, "memory": memory}[options.what](options)
