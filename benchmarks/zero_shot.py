"""Zero-shot detection: what hand-written words, PointAD, GS-CLIP, MCL-AD, Align3D-AD and mutual scoring find on categories that nobody learned from; what it costs.

    python benchmarks/zero_shot.py words                            # tiny_clip alone: hand-written prompts on photos, depth maps, renders
    python benchmarks/zero_shot.py detectors [--level hard]         # words and the four that learn; points alone, with the photo; samples and clouds
    python benchmarks/zero_shot.py sets                             # mutual against those, on sets of 8, 16 and 40 samples
    python benchmarks/zero_shot.py parts                            # GS-CLIP's table of parts
    python benchmarks/zero_shot.py faults                           # the faults a to g of its release, one at a time
    python benchmarks/zero_shot.py sweep --option k                 # or prototypes, or views
    python benchmarks/zero_shot.py time [--threads 2]               # one inference at paper size with random weights: seconds and peak memory
    python benchmarks/zero_shot.py training                         # how long each tiny detector learns

words: for each category of the "sample" family flawless individuals, and each of the seven defects twice, forged with seeds that nothing else uses. "a photo of a flawless {c}" is
asked against "a photo of a damaged {c}" (one template, no averaging), of the whole picture (class token) and of each patch. The score of a picture is the mean of
the class token's probability and the largest patch's, as in PointAD; both alone are printed beside it, and all of it for random weights. Depth maps and grey renderings (`views.render`, turned
by up to 45 degrees around two axes, geometry defects only) are asked with their own words. A figure is the mean of the categories, and of three draws of all individuals, whose means are printed beside it.
Naming: eight auxiliary categories, new individuals. Cosines: between the sentences of two sample categories.

detectors, three splits, none of which tests a category that was learned from: "auxiliary" learns from the auxiliary categories of the forge (the embedded encoder was trained on
other individuals of these) and tests the sample categories; "halves" learns from half of the sample categories and tests the other half, and the other way round (the encoder knows
neither); "clouds" is the same with the forge's closed clouds. Metrics within each category, averaged; P-PRO by 200 thresholds and exact AUPRO in columns of their own.

sets: `mutual`, which judges each unlabelled set by itself, against detectors that learned from the auxiliary categories, on the same sets; a smaller set is the beginning of a larger one.

parts, faults, sweep: learned from auxiliary categories. Stage 1 is trained once for all rows that share its options, and stage 2 continues from it, so that rows differ in one thing.
Tables are printed as rows for README.md.
"""
import argparse
import os
import sys
import tempfile
import time
import warnings
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from harness import _forget_peak, _status, goal, run_command
from sklearn.metrics import roc_auc_score

from mmad_nb.forge import forge_labelled, forge_sample, list_categories, list_defects
from mmad_nb.features import create_encoder
from mmad_nb.features.text import prompt_vectors, zero_shot, zero_shot_anomaly
from mmad_nb.mapping import sentence_vectors
from mmad_nb.pretraining.text import looks_of
from mmad_nb.views.render import rotation

# ---- words ----------------------------------------------------------------------------------------------------------

LOOKS = {"photo": "a photo of a {}", "depth": "a depth map of a {}", "shade": "a rendering of a {}"}
FIRST = (900_000, 700_000, 800_000)  # seeds of the draws
DEEP = list_defects("geometry") + list_defects("both")


def picture(looks: dict, look: str) -> torch.Tensor:
    "(1,3,S,S) in [0,1]"
    values = torch.from_numpy(looks[look]).float() / 255
    return (values if look == "photo" else values.expand(3, -1, -1))[None]


def bits(packed: np.ndarray) -> np.ndarray:
    "Share of set pixels in each of the 14 x 14 patches."
    return np.unpackbits(packed).reshape(14, 16, 14, 16).mean((1, 3))


def captures(category: str, seeds: int, first: int):
    "(defect, looks) of `seeds` flawless individuals and of two with each defect."
    rng, defects = np.random.default_rng(first), list_defects()
    def tilt():
        a, b = rng.uniform(-45, 45, 2)
        return rotation("x", a) @ rotation("y", b)
    for n in range(seeds): yield "good", looks_of(forge_sample(category, seed=first + n), tilt())
    for n in range(2 * len(defects)):
        sample = forge_sample(category, defects[n % len(defects)], seed=first + 100 + n)
        yield sample.defect, looks_of(sample, tilt())


def ask(encoder, shown: list, look: str, category: str) -> dict:
    "AUROCs of one category in one look."
    used = [(d, looks) for d, looks in shown if look == "photo" or d in ("good", *DEEP)]
    found = [zero_shot_anomaly(encoder, picture(looks, look), category, [LOOKS[look]]) for _, looks in used]
    bad, mask = [d != "good" for d, _ in used], "mask" if look == "photo" else "vmask"
    token, patch = np.array([f.score.item() for f in found]), np.array([f.map.max().item() for f in found])
    share, maps = np.stack([bits(looks[mask]) for _, looks in used]), torch.cat([f.map for f in found]).cpu().numpy()
    return {"picture": roc_auc_score(bad, token + patch), "class token": roc_auc_score(bad, token), "largest patch": roc_auc_score(bad, patch),
            "patches": roc_auc_score((share > .1).ravel(), maps.ravel())}


def naming(encoder, seeds: int) -> float:
    "Share of auxiliary individuals that are named rightly; chance is 1/8."
    names, right = list_categories("auxiliary"), []
    words = prompt_vectors(encoder, names, [LOOKS["photo"]])
    for k, category in enumerate(names):
        for n in range(seeds):
            found = encoder.encode_image(picture(looks_of(forge_sample(category, seed=910_000 + n), np.eye(3)), "photo")).image
            right.append(zero_shot(found, words, encoder.logit_scale).argmax().item() == k)
    return float(np.mean(right))


def cosines(encoder) -> dict:
    "Smallest and largest between two sample categories: of one sentence each, and of the means of fourteen flawless ones."
    names = list_categories("sample")
    vectors = {text: encoder.encode_text([text.format(c) for c in names]) for text in ("a photo of a {}", "a photo of a flawless {}")}
    vectors["mean of fourteen"] = F.normalize(sentence_vectors(encoder, names).mean(1), dim=-1)
    apart = torch.triu_indices(len(names), len(names), 1).unbind()
    return {text: ((v @ v.T)[apart].min().item(), (v @ v.T)[apart].max().item()) for text, v in vectors.items()}


def words(options) -> None:
    seeds = options.seeds or 8
    encoders = {"trained": create_encoder("tiny_clip", device="cpu"), "random": create_encoder("tiny_clip", weights="random", device="cpu")}
    for name, encoder in encoders.items(): print(f"{name}: {encoder.provenance}")
    names = list_categories("sample")
    rows = {(name, look): {category: [] for category in names} for name in encoders for look in LOOKS}
    for k, category in enumerate(names):
        for first in FIRST:
            shown = list(captures(category, seeds, first=first + 1000 * k))  # no two share pose and lamp
            for (name, look), found in rows.items(): found[category].append(ask(encoders[name], shown, look, category))
    mean = lambda results, which: np.mean([r[which] for r in results])
    print(f"\n{'picture, trained':16s}" + "".join(f"{look:>9s}" for look in LOOKS))
    for category in names:
        print(f"{category:16s}" + "".join(f"{mean(rows['trained', look][category], 'picture'):9.3f}" for look in LOOKS))
    print(f"\n{'mean of 8':16s}  picture  class token  largest patch  patches  draws")
    means = {}
    for (name, look), found in rows.items():
        every = sum(found.values(), [])
        means[name, look] = {which: mean(every, which) for which in every[0]}
        draws = [mean(draw, "picture") for draw in zip(*found.values())]
        print(f"{name + ', ' + look:16s}" + "".join(f"{v:{w}.3f}" for v, w in zip(means[name, look].values(), (9, 13, 15, 9)))
              + "  " + ", ".join(f"{d:.3f}" for d in draws))
    print()
    for text, (low, high) in cosines(encoders["trained"]).items(): print(f"cosines of two sample categories, {text}: {low:.3f} to {high:.3f}")
    rgb, start = torch.rand(1, 3, 224, 224), time.perf_counter()
    for _ in range(5): encoders["trained"].encode_image(rgb)
    print(f"\none picture takes {(time.perf_counter() - start) / 5 * 1000:.0f} ms on {torch.get_num_threads()} thread(s)")
    named = {name: naming(encoder, seeds) for name, encoder in encoders.items()}
    print(f"auxiliary objects named rightly: trained {named['trained']:.0%}, random weights {named['random']:.0%}, chance 12%\n")
    for look, wanted in (("photo", 78), ("depth", 70), ("shade", 70)): goal(f"zero-shot-image-auroc of {look}s", 100 * means["trained", look]["picture"], wanted, "%")
    goal("zero-shot-naming", 100 * named["trained"], wanted=50, unit="%")


# ---- detectors ------------------------------------------------------------------------------------------------------

METRICS = {"image_auroc": "O-AUROC", "image_ap": "O-AP", "pixel_auroc": "P-AUROC", "p_pro": "P-PRO (200)", "aupro@30": "AUPRO@30 (exact)"}
KINDS = {"hand-written words": ("pointad", {"prompts": "written"}), "pointad": ("pointad", {}),
         "pointad, views averaged as in the release": ("pointad", {"averaging": "release"}), "gs_clip": ("gs_clip", {}),
         "mcl": ("mcl", {}), "mcl, without the contrast": ("mcl", {"contrast": 0.}), "mcl, one pair for both sensors": ("mcl", {"decoupled": False}),
         "align3d": ("align3d", {}), "align3d, without DpCA": ("align3d", {"contrast": 0.})}
PHOTOGRAPHED = ("mcl", "align3d")                                           # learn from colours
ONE_TABLE = ("hand-written words", "pointad", "gs_clip", "mcl", "align3d")   # `sets`
TRUNK = {"points": {"rgb": 0.}, "points and photo": {}, "photo": {"rgb": 1.}}
FUSIONS = {"pointad": TRUNK, "gs_clip": TRUNK,
           "mcl": {"points": {"reading": "points", "eta": 1.}, "points and photo": {}, "photo": {"reading": "photo", "eta": 1.},
                   "points and photo, reading 'points'": {"reading": "points"}, "points and photo, reading 'photo'": {"reading": "photo"}},
           "align3d": {"points": {}, "aligned branch": {"share": 1., "whole": 1.}, "plain branch": {"share": 0., "whole": 0.}}}


def samples(family, each, seed, level, size=224, stains=True) -> list:
    "`each` flawless and `each` defective captures of every category of a family."
    return forge_labelled(list_categories(family), 2 * each, seed, [kind for kind in list_defects() if stains or kind != "stain"], size, level)


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


def judged(detector, captures, parts, **weights) -> list:
    "METRICS: within each category, averaged."
    from mmad_nb.experiments.protocols import measure
    from mmad_nb.scoring.evaluator import asked
    maps, found = detector.fuse(parts, **weights), []
    scores, label = asked(detector.image_scores, maps, parts, weights), np.array([c.anomalous for c in captures])
    for name in dict.fromkeys(c.category for c in captures):
        some = [i for i, c in enumerate(captures) if c.category == name]
        part = [maps[i] for i in some] if isinstance(maps, list) else maps[some]
        masks = [captures[i].labels for i in some] if isinstance(maps, list) else np.stack([captures[i].mask for i in some])
        rules = measure(part, scores[some], masks, label[some])
        found.append([*(rules["exact"].get(m, np.nan) for m in list(METRICS)[:3]), rules["clip-200"].get("aupro@30", np.nan), rules["exact"].get("aupro@30", np.nan)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                                         # a column of NaN: clouds have no regions
        return np.nanmean(found, 0)


def cells(values) -> str:
    "mean ± half range of several runs, as the cells of a row."
    text = lambda v: "–" if np.isnan(v).all() else f"{np.nanmean(v):.3f}" + (f" ± {np.ptp(v) / 2:.3f}" if len(v) > 1 else "")
    return " | ".join(map(text, np.array(values).T))


def head(*names) -> None:
    "The head of a table."
    print(f"| {' | '.join([*names, *METRICS.values()])} |\n|{'---|' * len(names)}{'--:|' * len(METRICS)}", flush=True)


def fusions(name, parts) -> dict:
    "How a detector's maps are joined; of clouds without a photo there is one way."
    return FUSIONS[name] if name == "align3d" or "photo" in parts else {"points": {}}


def detectors(options) -> None:
    from mmad_nb.detectors import create_detector
    seeds, level = options.seeds or 3, options.level
    auxiliary, tested = samples("auxiliary", options.learn, 1, level), samples("sample", options.each, 2, level)
    splits = {"auxiliary": [(auxiliary, tested)], "halves": halves(tested)}
    if level == "standard": splits["clouds"] = halves(clouds(options.each, 3))
    if options.splits: splits = {name: splits[name] for name in options.splits}
    print(f"level {level}: {len(auxiliary)} auxiliary captures, {len(tested)} tested, {seeds} seeds; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n", flush=True)
    head("split", "detector", "judged by")
    with tempfile.TemporaryDirectory() as own:
        for name, pairs in splits.items():
            best = {}
            for kind in options.kinds or KINDS:
                if name == "clouds" and KINDS[kind][0] in PHOTOGRAPHED: continue
                rows, fits = {}, []
                for seed in range(1 if kind == "hand-written words" else seeds):
                    runs = {}
                    for known, unknown in pairs:
                        detector, start = create_detector(KINDS[kind][0], device="cpu", seed=seed, **KINDS[kind][1], **passes(KINDS[kind][0], options)), time.process_time()
                        detector.fit(known, cache=options.cache or own)
                        fits.append(time.process_time() - start)
                        parts = detector.components(unknown, cache=options.cache or own)
                        for title, weights in fusions(KINDS[kind][0], parts).items():
                            runs.setdefault(title, []).append(judged(detector, unknown, parts, **weights))
                    for title, found in runs.items(): rows.setdefault(title, []).append(np.mean(found, 0))
                for title, values in rows.items(): print(f"| {name} | {kind} | {title} | {cells(values)} |", flush=True)
                if kind == "align3d" and name == "auxiliary": print(f"  ({nearness(detector, tested)})", file=sys.stderr, flush=True)
                best[kind] = {title: np.mean(values, 0)[0] for title, values in rows.items()}
                print(f"  (a training: {np.median(fits):.0f} s of CPU time)", file=sys.stderr, flush=True)
            if {"hand-written words", "pointad", "gs_clip"} <= set(best):
                difference = lambda one, other, title="points": 100 * (best[one][title] - best[other][title])
                goal(f"{name}: learned over hand-written, O-AUROC of points", difference("pointad", "hand-written words"), 0, " points")
                goal(f"{name}: gs_clip over pointad, O-AUROC of points", difference("gs_clip", "pointad"), 0, " points")
                if "points and photo" in best["pointad"]:
                    goal(f"{name}: pointad with the photo over points alone", 100 * (best["pointad"]["points and photo"] - best["pointad"]["points"]), 0, " points")
                    goal(f"{name}: gs_clip with the photo over points alone", 100 * (best["gs_clip"]["points and photo"] - best["gs_clip"]["points"]), 0, " points")


def nearness(detector, captures) -> str:
    "Cosine between the features of grey and of coloured renders of captures that nobody learned from, before and after the aligner."
    from mmad_nb.features.extract import size_of
    detector.coloured = True
    try: found = [detector.recipe.restore(detector.recipe.compute(c), size_of(c)) for c in captures]
    finally: detector.coloured = False
    before, after = [], []
    with torch.no_grad():
        for one in found:
            whole, patches = detector.modules["aligner"](one.image, one.patches)
            cosine = lambda a, b, dim: F.cosine_similarity(a, b, dim=dim).mean().item()
            before.append((cosine(one.image, one.colored, 1), cosine(one.patches, one.colored_patches, 1)))
            after.append((cosine(whole, one.colored, 1), cosine(patches, one.colored_patches, 1)))
    (w0, p0), (w1, p1) = np.mean(before, 0), np.mean(after, 0)
    return f"cosine to coloured renders, before and after: views {w0:.3f} to {w1:.3f}, patches {p0:.3f} to {p1:.3f}"


def sets(options) -> None:
    "mutual, which judges an unlabelled set by itself, against detectors that learned from other categories, on sets of several sizes."
    from mmad_nb.detectors import create_detector
    seeds, level, sizes = options.seeds or 3, options.level, options.sizes
    known = samples("auxiliary", options.learn, 1, level)
    names = options.categories or list_categories("sample")
    every = forge_labelled(names, max(sizes), 2, None, 224, level)                    # defective and flawless in turn
    pile = [every[start:start + max(sizes)] for start in range(0, len(every), max(sizes))]
    print(f"level {level}: sets of {', '.join(map(str, sizes))} of each of {len(names)} categories, half of them flawless; load {os.getloadavg()[0]:.1f}\n", flush=True)
    head("samples in a set", "detector")
    with tempfile.TemporaryDirectory() as own:
        cache, rows = options.cache or own, {}
        for kind in ("mutual", *(options.kinds or ONE_TABLE)):
            name, own_options = KINDS.get(kind, (kind, {}))
            for seed in range(1 if kind in ("mutual", "hand-written words") else seeds):
                chance = {} if kind == "mutual" else {"seed": seed} | passes(name, options)
                detector, found = create_detector(name, device="cpu", **own_options, **chance), {}
                if kind != "mutual": detector.fit(known, cache=cache)
                for some in pile:
                    parts = None if kind == "mutual" else detector.components(some, cache=cache)
                    for size in sizes:
                        if kind == "mutual":
                            detector = create_detector(name, device="cpu").fit(some[:size], cache=cache)
                            parts = detector.components(some[:size], cache=cache)
                        found.setdefault(size, []).append(judged(detector, some[:size], parts[:size]))
                for size, values in found.items(): rows.setdefault((size, kind), []).append(np.mean(values, 0))
            print(f"  ({kind} is measured)", file=sys.stderr, flush=True)
        for (size, kind), values in sorted(rows.items(), key=lambda row: row[0][0]): print(f"| {size} | {kind} | {cells(values)} |", flush=True)


def passes(name, options) -> dict:
    "Fewer passes, if that was asked for."
    if not options.epochs: return {}
    first, second = (*options.epochs, options.epochs[-1])[:2]
    return {"epochs": first} | ({"synergy_epochs": second} if name == "gs_clip" else {})


# ---- parts, faults, sweeps ------------------------------------------------------------------------------------------

LATER = ("synergy", "consistency", "release")        # options that stage 1 does not know


def learned(detector, stage, captures, start, epochs, cache) -> list:
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


def staged(rows, options) -> None:
    "A table of GS-CLIPs; what rows have in common is learned once."
    from mmad_nb.detectors import create_detector
    known, unknown = (samples(family, each, seed, options.level, stains=False) for family, each, seed in (("auxiliary", options.learn, 1), ("sample", options.each, 2)))
    seeds, found, curves = options.seeds or 3, {}, {}
    print(f"level {options.level}, no stains: {len(known)} captures to learn from, {len(unknown)} tested, {seeds} seeds\n", flush=True)
    with tempfile.TemporaryDirectory() as own:
        cache = options.cache or own
        for seed in range(seeds):
            firsts, whole = {}, None
            for title, row in rows.items():
                row = {name: value for name, value in row.items() if name != "detector"}
                make = lambda **more: create_detector("gs_clip", device="cpu", photo=options.photo, seed=seed, **more)
                common = {name: value for name, value in row.items() if name not in LATER}
                if (key := repr(sorted(common.items()))) not in firsts:
                    one = make(**common, synergy=False)
                    curve = learned(one, 0, known, {}, options.epochs and options.epochs[0], cache)
                    firsts[key] = one, {"prompts": {name: value.clone() for name, value in one.modules["prompts"].state_dict().items()}}, curve
                one, start, curve = firsts[key]
                if row.get("synergy", True):
                    one = make(**row)
                    if row.get("release") == "train_mode":                      # the training is that of the right one, the test is not
                        one.begin([])
                        one.load_state(whole.state()); one.fitted = True
                    else: curve = learned(one, 1, known, start, options.epochs and options.epochs[-1], cache)
                    if row.get("release", "none") == "none": whole = one
                found.setdefault(title, []).append(judged(one, unknown, one.components(unknown, cache=cache)))
                curves.setdefault(title, []).append((curve[0], curve[-1]))
                print(f"  seed {seed}, {title}: " + ", ".join(f"{v:.3f}" for v in found[title][-1]), file=sys.stderr, flush=True)
    head("row", "loss of its passes")
    for title, values in found.items(): print(f"| {title} | {' to '.join(f'{v:.3f}' for v in np.mean(curves[title], 0))} | {cells(values)} |", flush=True)


def parts(options) -> None:
    from mmad_nb.experiments.zero_shot import COMPONENT_ROWS
    staged(COMPONENT_ROWS, options)


def faults(options) -> None:
    from mmad_nb.experiments.zero_shot import FAULT_ROWS
    staged({"stage 1 alone": {"synergy": False}} | FAULT_ROWS, options)


def sweep(options) -> None:
    from mmad_nb.experiments.zero_shot import SWEEPS, sweep_rows
    print(f"{options.option}: {SWEEPS[options.option]}; renders alone, since it acts there")
    staged(sweep_rows(options.option, synergy=False), options)


# ---- costs ----------------------------------------------------------------------------------------------------------

PAPER = {"seconds": .51, "mebibytes": 5872}
JOBS = {f"{name}, {dtype}": (name, dtype) for name in ("pointad", "gs_clip") for dtype in ("float32", "bfloat16")}


def paper_size(name, dtype, device, threads) -> None:
    "One capture through a detector of the paper's size with random weights; seconds of its steps and peak memory."
    import mmad_nb.detectors.gs_clip as module
    from mmad_nb.detectors import create_detector
    from mmad_nb.detectors.base import Reading
    from mmad_nb.features.pointnet2 import create_pointnet2
    torch.set_num_threads(threads)
    on_gpu, dtypes = device != "cpu", getattr(torch, dtype)
    module.create_pointnet2 = partial(create_pointnet2, weights="random")
    capture = samples("sample", 1, 5, "standard", size=336)[1]
    encoder = create_encoder("ViT-L-14-336.openai", weights="random", device=device, dtype=dtypes)
    detector = create_detector(name, encoders=encoder, device=device, photo=False)
    detector.begin([])
    detector.fitted = True
    wait = torch.cuda.synchronize if on_gpu else (lambda: None)
    if on_gpu: detector.components([capture]); torch.cuda.reset_peak_memory_stats()         # the first call compiles and allocates
    idle = _status("self", "VmRSS")
    _forget_peak()
    times = []
    for _ in range(5 if on_gpu else 1):
        wait(); start, cpu = time.perf_counter(), time.process_time()
        detector.components([capture]); wait()
        times.append((time.perf_counter() - start, time.process_time() - cpu))
    start, recipe = time.perf_counter(), detector.recipe
    recipe.look(capture); wait()
    render, start = time.perf_counter() - start, time.perf_counter()
    with torch.no_grad(): detector.networks() if name == "pointad" else detector.sentences(
        detector.modules["prompts"].eval(), module.plan_of(torch.from_numpy(capture.cloud().points), detector.grouping))
    wait()
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else _status("self", "VmHWM")
    wall, cpu = np.median(times, 0)
    print(f"{wall} {cpu} {render} {time.perf_counter() - start} {peak} {idle}")


def costs(options) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {options.threads} threads of {os.cpu_count()} cores"
    print(f"{where}; load {os.getloadavg()[0]:.1f}; nine views of 336 x 336, one capture, points alone\n")
    print("| detector | seconds | of CPU time | rendering | both sentences | peak MiB | before it MiB |\n|---|--:|--:|--:|--:|--:|--:|", flush=True)
    for title, (name, dtype) in JOBS.items():
        command = [sys.executable, __file__, "--one", name, dtype, device, str(options.threads)]
        wall, cpu, render, text, peak, idle = map(float, run_command(command, timeout=3000).output.split()[-6:])
        print(f"| {title} | {wall:.2f} | {cpu:.2f} | {render:.2f} | {text:.2f} | {peak:.0f} | {idle:.0f} |", flush=True)
        if name == "gs_clip":
            if device == "cuda": goal(f"{title}: faster than the paper's {PAPER['seconds']} s", PAPER["seconds"] / wall, 3)
            goal(f"{title}: less memory than the paper's {PAPER['mebibytes']} MB", PAPER["mebibytes"] / peak, 2)


def training(options) -> None:
    from mmad_nb.detectors import create_detector
    torch.set_num_threads(options.threads)
    known = samples("auxiliary", options.learn, 1, options.level)
    print(f"{len(known)} captures of 224 x 224, the detectors' own passes, {options.threads} threads; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| detector | seconds | of CPU time |\n|---|--:|--:|")
    for name in ("pointad", "gs_clip"):
        start, cpu = time.perf_counter(), time.process_time()
        create_detector(name, device="cpu", **passes(name, options)).fit(known)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(f"| {name} | {wall:.0f} | {cpu:.0f} |", flush=True)
        goal(f"{name} learns in three minutes", 180 / wall, 1)


# ---------------------------------------------------------------------------------------------------------------------

def main() -> None:
    if sys.argv[1:2] == ["--one"]: return paper_size(*sys.argv[2:5], int(sys.argv[5]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = {"words": words, "detectors": detectors, "sets": sets, "parts": parts, "faults": faults, "sweep": sweep, "time": costs, "training": training}
    parser.add_argument("job", nargs="?", default="words", choices=jobs)
    parser.add_argument("--seeds", type=int, help="trainings of each row (3); for words: flawless individuals of each category (8)")
    parser.add_argument("--learn", type=int, default=1, help="flawless and defective captures of each auxiliary category to learn from")
    parser.add_argument("--each", type=int, default=7, help="flawless and defective captures of each tested category")
    parser.add_argument("--epochs", type=int, nargs="*", help="passes of stage 1 and of stage 2; by default the detectors' own")
    parser.add_argument("--level", default="standard", choices=("standard", "hard"), help="of the forge")
    parser.add_argument("--splits", nargs="*", choices=("auxiliary", "halves", "clouds"), help="detectors: some of them")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, help="detectors, sets: some of them")
    parser.add_argument("--sizes", type=int, nargs="*", default=[8, 16, 40], help="sets: samples in a set of one category")
    parser.add_argument("--categories", nargs="*", help="sets: some of the tested ones")
    parser.add_argument("--option", default="k", choices=("k", "prototypes", "views"), help="sweep: which setting")
    parser.add_argument("--photo", action="store_true", help="parts, faults, sweep: with the photo")
    parser.add_argument("--threads", type=int, default=2, help="time, training: of torch")
    parser.add_argument("--cache", help="folder to keep features in")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    jobs[options.job](options)


if __name__ == "__main__":
    main()
