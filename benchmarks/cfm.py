"""One CFM inference at paper size, against anomalib's CFM, with the same seeded weights.

    pip install "mmad_nb[benchmark]"            # brings the peer, anomalib
    python benchmarks/cfm.py                    # about five minutes on two cores
    python benchmarks/cfm.py --peer-python OTHER/bin/python   # where anomalib lives in another environment

Each run is a process of its own, in turn (A B A B): it loads the weights, infers once to warm up and once against the
clock. Peak memory is that of the whole process. Nothing is downloaded: random weights stand in the published files'
layouts, and anomalib's own download is told where they are.
"""
import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import Run, alternate_commands, goal, medians, run_command, table

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


# ---- what both read -------------------------------------------------------------------------------------------------

def make(folder: Path) -> None:
    "Write one capture of about 20,000 valid pixels and seeded random weights in the published layouts."
    import timm
    import torch

    from mmad_nb.data import prepare
    from mmad_nb.forge import forge_sample
    from mmad_nb.features.points import PointMAE
    from mmad_nb.mapping import create_mappers
    sample = prepare(forge_sample("bagel", "stain", seed=3, size=400), size=280)
    row, column = (int(a.mean()) - 112 for a in np.nonzero(sample.valid))
    window = (..., slice(max(0, row), max(0, row) + 224), slice(max(0, column), max(0, column) + 224))
    np.savez(folder / "capture.npz", rgb=sample.rgb[window], xyz=sample.xyz[window], valid=sample.valid[window])
    torch.manual_seed(0)
    vit = timm.create_model("vit_base_patch8_224.dino", pretrained=False, num_classes=0)
    torch.save(vit.state_dict(), folder / "dino_vitbase8_pretrain.pth")
    state = {f"module.MAE_encoder.{k}": v for k, v in PointMAE().state_dict().items()}
    torch.save({"base_model": state}, folder / "pretrain.pth")
    mappers = create_mappers(768, 1152, seed=0)
    torch.save(mappers["rgb_to_xyz"].state_dict(), folder / "CFM_2Dto3D.pth")
    torch.save(mappers["xyz_to_rgb"].state_dict(), folder / "CFM_3Dto2D.pth")


def timed(infer):
    "Once to warm up, once against the clock."
    infer()
    start, processor = time.perf_counter(), time.process_time()
    result = infer()
    return result, {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor}


# ---- ours -----------------------------------------------------------------------------------------------------------

def our_detector(folder: Path, dtype: str):
    import torch

    from mmad_nb.detectors import create_detector
    from mmad_nb.features.zoo import create_encoder
    from mmad_nb.mapping import load_mapper
    files = {"vit_base_patch8_224.dino": "dino_vitbase8_pretrain.pth", "point_mae": "pretrain.pth"}
    encoders = [create_encoder(name, folder / file, "cpu", dtype=getattr(torch, dtype)) for name, file in files.items()]
    detector = create_detector("cfm", encoders=encoders, device="cpu", compute_dtype=dtype)
    detector.modules = torch.nn.ModuleDict({"rgb_to_xyz": load_mapper(folder / "CFM_2Dto3D.pth"),
                                            "xyz_to_rgb": load_mapper(folder / "CFM_3Dto2D.pth")})
    detector.fitted = True
    return detector


def our_sample(folder: Path):
    from mmad_nb.data import Sample
    with np.load(folder / "capture.npz") as file:
        return Sample(**{name: file[name] for name in ("rgb", "xyz", "valid")}, id="benchmark")


def ours(folder: Path, dtype: str) -> dict:
    from mmad_nb.features import bfloat16_pays
    detector, sample = our_detector(folder, dtype), our_sample(folder)

    def infer():
        parts = detector.components([sample])
        maps = detector.fuse(parts)
        return parts, detector.image_scores(maps)

    (parts, _), took = timed(infer)
    np.savez(folder / f"ours-{dtype}.npz", rgb=parts["rgb"][0], xyz=parts["xyz"][0], valid=parts.valid[0])
    return {**took, "native": bfloat16_pays("cpu")}


# ---- anomalib's -----------------------------------------------------------------------------------------------------

def peer_model(folder: Path):
    import timm
    import torch
    usual = timm.create_model

    def from_file(model_name, pretrained=False, **options):  # instead of a download
        options.pop("features_only", None)
        model = usual(model_name, pretrained=False, num_classes=0, **options)
        model.load_state_dict(torch.load(folder / "dino_vitbase8_pretrain.pth", weights_only=True))
        return model

    timm.create_model = from_file
    from anomalib.models.image.cfm.torch_model import CFMModel
    model = CFMModel(pointmae_weights=folder / "pretrain.pth").eval()
    for name, mapper in (("CFM_2Dto3D", model.rgb_to_xyz_mapper), ("CFM_3Dto2D", model.xyz_to_rgb_mapper)):
        state = torch.load(folder / f"{name}.pth", weights_only=True)
        mapper.load_state_dict({k: v[..., None, None] if v.ndim == 2 else v for k, v in state.items()})
    return model


def peer_input(folder: Path):
    import torch
    with np.load(folder / "capture.npz") as file:
        rgb, xyz = torch.from_numpy(file["rgb"]), torch.from_numpy(file["xyz"])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return ((rgb - mean) / std)[None], xyz[None]


def peer_distances(model, rgb, xyz) -> dict:
    "anomalib's two distance maps, before it fuses them."
    features = model.extract_features(rgb, xyz)
    guesses, distance = model.map_features(*features), model.anomaly_map_generator.compute_distance
    return {name: distance(f, g)[0].numpy() for name, f, g in zip(("rgb", "xyz"), features, guesses)}


def peer(folder: Path) -> dict:
    import torch
    torch.manual_seed(0)
    model, batch = peer_model(folder), peer_input(folder)
    with torch.inference_mode():
        _, took = timed(lambda: model(*batch))
    return took


def peer_maps(folder: Path) -> dict:
    "Its distance maps as shipped, then with its definitions moved to those of the published CFM code."
    import torch
    import torch.nn.functional as F
    model, batch = peer_model(folder), peer_input(folder)
    torch.randint = lambda *a, **k: torch.zeros(1, dtype=torch.long)  # sampling starts at the first point, as ours
    with torch.inference_mode():
        np.savez(folder / "peer-shipped.npz", **peer_distances(model, *batch))
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):              # statistics of the sample
                module.track_running_stats, module.running_mean, module.running_var = False, None, None
        model.feature_extractors.average.forward = lambda x: x if x.shape[1] == 768 else F.avg_pool2d(x, 3, stride=1)
        np.savez(folder / "peer-matched.npz", **peer_distances(model, *batch))
    return {}


# ---- the comparison -------------------------------------------------------------------------------------------------

def compare(folder: Path, ours_name: str, other_name: str, label: str) -> None:
    a, b = np.load(folder / f"{ours_name}.npz"), np.load(folder / f"{other_name}.npz")
    valid = np.load(folder / "ours-float32.npz")["valid"]
    for name in ("rgb", "xyz"):
        x, y = a[name][valid], b[name][valid]
        print(f"  {label:48s} {name}: largest difference {abs(x - y).max():.1e} of {y.max():.2f},"
              f" correlation {np.corrcoef(x, y)[0, 1]:.6f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of the environment with anomalib")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, folder, *rest = options.child
        print(json.dumps(globals()[name](Path(folder), *rest) or {}))
        return

    folder = Path(tempfile.mkdtemp(prefix="cfm-benchmark-"))
    command = lambda python, *child: [python, __file__, "--child", child[0], str(folder), *child[1:]]
    said = lambda run: json.loads(run.output.strip().splitlines()[-1])
    run_command(command(sys.executable, "make"))
    print(f"{int(np.load(folder / 'capture.npz')['valid'].sum())} valid pixels, DINO ViT-B/8, 1024 groups of 128 points")
    jobs = {"ours float32": command(sys.executable, "ours", "float32"), "anomalib": command(options.peer_python, "peer"),
            "ours bfloat16": command(sys.executable, "ours", "bfloat16")}
    whole = alternate_commands(jobs, repeats=options.repeats)
    runs = {name: [Run(said(run)["seconds"], run.peak) for run in rs] for name, rs in whole.items()}
    table(runs, "one inference")
    busy = {name: np.median([said(run)["processor"] for run in rs]) for name, rs in whole.items()}
    print("processor seconds, all cores added (steadier on a shared machine): "
          + ", ".join(f"{name} {value:.1f}" for name, value in busy.items()))

    run_command(command(options.peer_python, "peer_maps"))
    print("\nscores, on valid pixels, before fusion:")
    compare(folder, "ours-float32", "peer-matched", "ours and anomalib, same definitions")
    compare(folder, "ours-float32", "peer-shipped", "ours and anomalib as shipped")
    compare(folder, "ours-bfloat16", "ours-float32", "ours, bfloat16 and float32")
    print("""  As shipped, anomalib normalises groups of points with stored statistics instead of the sample's, averages the
  image features over 3x3 pixels too, counts zeros beyond the picture in the mean, and scores the background.""")
    if not said(whole["ours bfloat16"][0])["native"]:
        print("  This CPU has no bfloat16 instructions: weights are kept in bfloat16, products are computed in float32.")
    middle = medians(runs)
    goal("cfm-float32", middle["anomalib"].seconds / middle["ours float32"].seconds, wanted=2.5)
    goal("cfm-bfloat16", middle["anomalib"].seconds / middle["ours bfloat16"].seconds, wanted=4)
    for dtype in ("float32", "bfloat16"):
        goal(f"cfm-memory-{dtype}", middle["anomalib"].peak / middle[f"ours {dtype}"].peak, wanted=3)


if __name__ == "__main__":
    main()
