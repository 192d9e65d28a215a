"""What tiny_clip knows about objects that it has never seen, from hand-written prompts alone.

    python benchmarks/zero_shot.py [--seeds 8]

For each category of the "sample" family: flawless individuals, and each of the seven defects twice, forged with seeds that nothing else uses. "a photo of a flawless {c}" is
asked against "a photo of a damaged {c}" (one template, no averaging), of the whole picture (class token) and of each patch. The score of a picture is the
mean of the class token's probability and the largest patch's, as in PointAD; both alone are printed beside it, and all of it for random weights. Depth maps and grey renderings (turned by
up to 45 degrees, geometry defects only) are asked with their own words. Naming: eight auxiliary categories, new individuals.
"""
import argparse
import time
import warnings

import numpy as np
import torch
from harness import goal
from sklearn.metrics import roc_auc_score

from mmad_nb.forge import forge_sample, list_categories, list_defects
from mmad_nb.features import create_encoder
from mmad_nb.features.text import prompt_vectors, zero_shot, zero_shot_anomaly
from mmad_nb.pretraining.text import looks_of, turn

LOOKS = {"photo": "a photo of a {}", "depth": "a depth map of a {}", "shade": "a rendering of a {}"}
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
    for n in range(seeds): yield "good", looks_of(forge_sample(category, seed=first + n), turn(*rng.uniform(-.78, .78, 2)))
    for n in range(2 * len(defects)):
        sample = forge_sample(category, defects[n % len(defects)], seed=first + 100 + n)
        yield sample.defect, looks_of(sample, turn(*rng.uniform(-.78, .78, 2)))


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
            found = encoder.encode_image(picture(looks_of(forge_sample(category, seed=910_000 + n), turn(0, 0)), "photo")).image
            right.append(zero_shot(found, words, encoder.logit_scale).argmax().item() == k)
    return float(np.mean(right))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8, help="flawless individuals of each category")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    encoders = {"trained": create_encoder("tiny_clip", device="cpu"), "random": create_encoder("tiny_clip", weights="random", device="cpu")}
    for name, encoder in encoders.items(): print(f"{name}: {encoder.provenance}")
    rows = {(name, look): [] for name in encoders for look in LOOKS}
    print(f"\n{'photos, trained':16s}  picture  class token  largest patch  patches")
    for k, category in enumerate(list_categories("sample")):
        shown = list(captures(category, options.seeds, first=900_000 + 1000 * k))  # no two share pose and lamp
        for (name, look), results in rows.items(): results.append(ask(encoders[name], shown, look, category))
        print(f"{category:16s}" + "".join(f"{v:{w}.3f}" for v, w in zip(rows["trained", "photo"][-1].values(), (9, 13, 15, 9))))
    means = {key: {k: np.mean([r[k] for r in results]) for k in results[0]} for key, results in rows.items()}
    print(f"\n{'mean of 8':16s}  picture  class token  largest patch  patches")
    for (name, look), mean in means.items(): print(f"{name + ', ' + look:16s}" + "".join(f"{v:{w}.3f}" for v, w in zip(mean.values(), (9, 13, 15, 9))))
    rgb, start = torch.rand(1, 3, 224, 224), time.perf_counter()
    for _ in range(5): encoders["trained"].encode_image(rgb)
    print(f"\none picture takes {(time.perf_counter() - start) / 5 * 1000:.0f} ms on {torch.get_num_threads()} thread(s)")
    named = {name: naming(encoder, options.seeds) for name, encoder in encoders.items()}
    print(f"auxiliary objects named rightly: trained {named['trained']:.0%}, random weights {named['random']:.0%}, chance 12%\n")
    goal("zero-shot-image-auroc", 100 * means["trained", "photo"]["picture"], wanted=65, unit="%")
    goal("zero-shot-naming", 100 * named["trained"], wanted=50, unit="%")


if __name__ == "__main__":
    main()
