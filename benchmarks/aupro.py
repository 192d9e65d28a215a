"""All metrics of fused maps, against four AUPROs of anomalib, pyaupro and ADEval, and two metrics of scikit-learn.

    pip install "mmad_nb[benchmark]"              # brings the peers
    python benchmarks/aupro.py                    # a few minutes on two cores
    python benchmarks/aupro.py --peer-python OTHER/bin/python     # where the peers live in another environment
    python benchmarks/aupro.py --device cuda      # ours on a GPU, the peers as before

Each run is a process of its own, in turn (A B A B), with the same forged maps and masks of 224 x 224. Ours times what one
move of a slider costs: fusion of two component maps, 4 AUPRO, pixel AUROC, AP, image AUROC and AP. The peers get the
fused map and compute less: pyaupro one exact curve and its area up to four limits; anomalib one AUPRO for each limit;
ADEval pixel AUROC, AP and the AUPRO at the one limit it has, from 1000 bins; scikit-learn pixel AUROC and AP.
Each works once to warm up, except the peers on many maps. Peak memory is what the process held at most, beyond imports, maps and masks.
"""
import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import Run, _forget_peak, _status, alternate_commands, goal, medians, run_command, table

LIMITS = (.3, .1, .05, .01)


# ---- what all read --------------------------------------------------------------------------------------------------

def make(folder: Path, count: str) -> dict:
    "Two component maps about as good as those of published detectors, and their fusion."
    import torch

    from mmad_nb.scoring.evaluator import two_sensors
    components, masks = two_sensors(int(count), 224, stain=10., dent=8.)
    for name, maps in components.items(): np.save(folder / f"{name}.npy", maps.numpy())
    np.save(folder / "masks.npy", masks)
    np.save(folder / "fused.npy", torch.lerp(components["rgb"], components["xyz"], .4).numpy())
    return {"defective": float(masks.mean())}


def held() -> float:
    "What this process holds now, in MiB; its high-water mark is set back to it."
    _forget_peak()
    return _status("self", "VmRSS")


def timed(work, repeats: str, before: float | None = None) -> dict:
    "Once to warm up, for its values and its memory; then the median time of some runs, or that of the first if none."
    before, start = before or held(), time.perf_counter()
    values, seconds = [float(v) for v in work()], []
    if repeats == "0": seconds.append(time.perf_counter() - start)
    peak = _status("self", "VmHWM") - before
    for _ in range(int(repeats)):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return {"seconds": float(np.median(seconds)), "peak": peak, "values": values}


def read(folder: Path, *names: str) -> list:
    return [np.load(folder / f"{name}.npy") for name in names]


# ---- ours -----------------------------------------------------------------------------------------------------------

def ours(folder: Path, repeats: str, device: str) -> dict:
    "One move of a slider."
    import torch

    from mmad_nb.scoring import Evaluator
    rgb, xyz, masks = read(folder, "rgb", "xyz", "masks")
    components = {"rgb": torch.from_numpy(rgb).to(device), "xyz": torch.from_numpy(xyz).to(device)}
    blend = lambda parts, alpha: torch.lerp(parts["rgb"], parts["xyz"], alpha)
    before, start = held(), time.perf_counter()
    evaluator = Evaluator(masks)
    prepared = time.perf_counter() - start
    alphas = iter(.4 + .001 * np.arange(1000))                         # never the same position twice

    def move():
        metrics = evaluator.evaluate(components, fuse=blend, alpha=float(next(alphas)))
        return [metrics[f"aupro@{100 * L:g}"] for L in LIMITS] + [metrics["pixel_auroc"], metrics["pixel_ap"]]

    return {**timed(move, repeats, before), "prepared": prepared, "threads": evaluator.threads}


def one_call(folder: Path, repeats: str) -> dict:
    "`evaluate` from fused maps, nothing prepared: regions found anew each time."
    from mmad_nb.scoring import Evaluator
    fused, masks = read(folder, "fused", "masks")
    values = lambda m: [m[f"aupro@{100 * L:g}"] for L in LIMITS] + [m["pixel_auroc"], m["pixel_ap"]]
    return timed(lambda: values(Evaluator(masks).evaluate(fused)), repeats)


# ---- the peers' -----------------------------------------------------------------------------------------------------

def pyaupro(folder: Path, repeats: str) -> dict:
    import torch
    from pyaupro import PerRegionOverlap, auc_compute
    fused, masks = map(torch.from_numpy, read(folder, "fused", "masks"))
    masks = masks.int()

    def work():
        metric = PerRegionOverlap(thresholds=None)
        metric.update(fused, masks)
        fpr, pro = metric.compute()
        return [auc_compute(fpr, pro, limit=L) for L in LIMITS]

    return timed(work, repeats)


def anomalib(folder: Path, repeats: str) -> dict:
    import torch
    from anomalib.metrics.aupro import _AUPRO
    fused, masks = map(torch.from_numpy, read(folder, "fused", "masks"))
    masks = masks.int()

    def work():
        values = []
        for L in LIMITS:
            metric = _AUPRO(fpr_limit=L)
            metric.update(fused, masks)
            values.append(metric.compute())
        return values

    return timed(work, repeats)


def adeval(folder: Path, repeats: str) -> dict:
    if not hasattr(np, "trapz"): np.trapz = np.trapezoid              # ADEval 1.1 uses the name of NumPy 1
    import adeval
    fused, masks = read(folder, "fused", "masks")
    masks = masks.astype(np.uint8)
    work = lambda: adeval.auroc_aupr_aupro(list(fused), list(masks))
    return timed(work, repeats)


def sklearn(folder: Path, repeats: str) -> dict:
    from sklearn.metrics import average_precision_score, roc_auc_score
    fused, masks = read(folder, "fused", "masks")
    scores, truth = fused.ravel(), masks.ravel()
    return timed(lambda: [roc_auc_score(truth, scores), average_precision_score(truth, scores)], repeats)


# ---- the comparison -------------------------------------------------------------------------------------------------

def compare(count: int, options) -> None:
    folder = Path(tempfile.mkdtemp(prefix="aupro-benchmark-"))
    command = lambda python, name, *rest: [python, __file__, "--child", name, str(folder), *map(str, rest)]
    said = lambda run: json.loads(run.output.strip().splitlines()[-1])
    share = said(run_command(command(sys.executable, "make", count)))["defective"]
    inner = {"ours": 9, "one_call": 5} if count <= 100 else {"ours": 5, "one_call": 3}
    jobs = {"ours, one slider move": command(sys.executable, "ours", inner["ours"], options.device),
            "ours, one call": command(sys.executable, "one_call", inner["one_call"])}
    for name in options.peers: jobs[name] = command(options.peer_python, name, 3 if count <= 100 else 0)
    whole = alternate_commands(jobs, repeats=options.repeats if count <= 100 else options.repeats_large, timeout=900)
    runs = {name: [Run(said(run)["seconds"], said(run)["peak"]) for run in rs] for name, rs in whole.items()}
    table(runs, f"{count} maps, {share:.2%} defective")
    last = {name: said(rs[-1]) for name, rs in whole.items()}
    print(f"  our Evaluator is prepared in {1000 * last['ours, one slider move']['prepared']:.0f} ms"
          f" and used {last['ours, one slider move']['threads']} threads")
    for name, answer in last.items(): print(f"  {name:22s}", *(f"{v:.5f}" for v in answer["values"]))
    middle = medians(runs)
    mine = middle["ours, one slider move"]
    wanted = {"pyaupro": (25, 35), "anomalib": (120, 180)}
    for name in options.peers:
        asked = wanted.get(name, (None, None))[count > 100]
        goal(f"aupro-{count}-{name}", middle[name].seconds / mine.seconds, asked)
        if count > 100: goal(f"aupro-{count}-{name}-memory", middle[name].peak / mine.peak, 6 if name in wanted else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000], help="numbers of maps")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each, for up to 100 maps")
    parser.add_argument("--repeats-large", type=int, default=2, help="the same for more")
    parser.add_argument("--peers", nargs="*", default=["pyaupro", "anomalib", "adeval", "sklearn"])
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of the environment with the peers")
    parser.add_argument("--device", default="cpu", help="where ours computes")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, folder, *rest = options.child
        print(json.dumps(globals()[name](Path(folder), *rest)))
        return
    for count in options.counts: compare(count, options)


if __name__ == "__main__":
    main()
