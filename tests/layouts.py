"""Small data sets and models in the layouts as published, written from scratch into a temporary folder."""
import json
import struct
from pathlib import Path

import numpy as np
import tifffile
import yaml
from PIL import Image


def scene(shape=(60, 60), seed=0, table=True):
    "A half ball (3 cm) on a tilted table, 1 mm a pixel: photo (H,W,3) uint8, xyz (H,W,3) float32, mask of a spot on the ball."
    rng = np.random.default_rng(seed)
    H, W = shape
    y, x = (np.mgrid[:H, :W] - np.array([H // 2, W // 2])[:, None, None]) * 0.001
    height = np.sqrt(np.clip(0.02**2 - x**2 - y**2, 0, None))
    xyz = np.stack([x, y, 0.5 + 0.1 * x - height + rng.normal(0, 0.0001, x.shape)], -1)
    if not table: xyz[height == 0] = 0
    photo = np.full((H, W, 3), 60, np.uint8)
    photo[height > 0] = (200, 120, 60)
    spot = np.hypot(x - 0.005, y) < 0.004
    photo[spot] = (20, 20, 20)
    return photo, xyz.astype(np.float32), spot


def write_capture(folder, stem, photo, xyz, gt=None):
    "The files of one MVTec capture."
    for kind in ("rgb", "xyz", "gt"): (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo).save(folder / "rgb" / f"{stem}.png")
    tifffile.imwrite(folder / "xyz" / f"{stem}.tiff", xyz, photometric="rgb")
    if gt is not None: Image.fromarray(gt).save(folder / "gt" / f"{stem}.png")


def write_mvtec(root, category="bagel", shape=(60, 60), counts=(("train/good", 3), ("validation/good", 1), ("test/good", 1), ("test/hole", 2), ("test/stain", 1))) -> Path:
    "MVTec 3D-AD: masks hold class ids (253 for hole, 254 for stain), gt under test/good is all zero."
    for place, count in counts:
        for i in range(count):
            photo, xyz, spot = scene(shape, seed=len(place) + i)
            ident = {"hole": 253, "stain": 254}.get(place.split("/")[1], 0)
            gt = None if not place.startswith("test") else (spot * ident).astype(np.uint8)
            write_capture(Path(root) / category / place, f"{i:03}", photo, xyz, gt)
    return Path(root)


def lzf_as_is(data):
    "LZF that copies everything as it is."
    return b"".join(bytes([len(c) - 1]) + c for c in (data[i:i + 32] for i in range(0, len(data), 32)))


def write_pcd(path, fields, data="ascii", width=None, height=1):
    "A PCD file of these columns {name: (N,) or (N,count) array}; `_` is padding."
    columns = [(name, np.asarray(c)[:, None] if np.ndim(c) == 1 else np.asarray(c)) for name, c in fields.items()]
    n = len(columns[0][1])
    words = lambda f: " ".join(str(f(name, c)) for name, c in columns)
    head = (f"# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS {words(lambda name, c: name)}\nSIZE {words(lambda name, c: c.dtype.itemsize)}\n"
            f"TYPE {words(lambda name, c: c.dtype.kind.upper())}\nCOUNT {words(lambda name, c: c.shape[1])}\nWIDTH {width or n}\nHEIGHT {height}\n"
            f"VIEWPOINT 0 0 0 1 0 0 0\nPOINTS {n}\nDATA {data}\n").encode()
    if data == "ascii": body = "\n".join(" ".join(repr(v.item()) for _, c in columns for v in c[i]) for i in range(n)).encode() + b"\n"
    elif data == "binary": body = b"".join(c[i].tobytes() for i in range(n) for _, c in columns)
    else:
        plain = b"".join(c.tobytes() for _, c in columns)
        packed = lzf_as_is(plain)
        body = struct.pack("<II", len(packed), len(plain)) + packed
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(head + body)


def write_ply(path, points, data="ascii", lists=False):
    "A PLY file with colours, a property of no use and faces; with `lists`, also an element before the points and a list in each."
    order = {"ascii": None, "binary_little_endian": "<", "binary_big_endian": ">"}[data]
    head = f"ply\nformat {data} 1.0\ncomment made by a test\n"
    if lists: head += "element camera 1\nproperty float focal\nproperty list uchar short mode\n"
    head += f"element vertex {len(points)}\nproperty float x\nproperty double y\nproperty float z\n"
    head += "property uchar red\nproperty uchar green\nproperty uchar blue\n" + "property list uchar int views\n" * lists
    head += "property ushort extra\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
    rows = [[("f", 35.5), ("B", 2), ("h", -1), ("h", 7)]] if lists else []
    for i, (x, y, z) in enumerate(points.tolist()):
        views = [("B", i % 3), *[("i", k) for k in range(i % 3)]] if lists else []
        rows.append([("f", x), ("d", y), ("f", z), ("B", i % 256), ("B", 0), ("B", 255), *views, ("H", i)])
    rows.append([("B", 3), ("i", 0), ("i", 1), ("i", 2)])
    if order: body = b"".join(struct.pack(order + kind, value) for row in rows for kind, value in row)
    else: body = "".join(" ".join(repr(value) for _, value in row) + "\n" for row in rows).encode()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(head.encode() + body)


def sphere(count=200, bump=0.0, seed=0):
    "Points on a ball of radius 10 and which of them are pushed out by `bump`."
    p = np.random.default_rng(seed).normal(size=(count, 3))
    p /= np.linalg.norm(p, axis=1, keepdims=True)
    near = p[:, 2] > 0.8
    return (p * np.where(near, 10 + bump, 10)[:, None]).astype(np.float32), near & (bump != 0)


def write_clouds(root, category, train, test, gt="gt", separator=" ", count=200) -> Path:
    "Real3D-AD or Anomaly-ShapeNet: `test` maps a cloud's name to its label file's name (None for a good one)."
    folder = Path(root) / category
    for i, stem in enumerate(train):
        points, _ = sphere(count, seed=i)
        write_pcd(folder / "train" / f"{stem}.pcd", dict(zip("xyz", points.T)), "binary")
    for i, (stem, label_stem) in enumerate(test.items()):
        points, labels = sphere(count, bump=1.0 if label_stem else 0.0, seed=50 + i)
        write_pcd(folder / "test" / f"{stem}.pcd", dict(zip("xyz", points.T)), "binary_compressed")
        if label_stem:
            (folder / gt).mkdir(exist_ok=True)
            np.savetxt(folder / gt / f"{label_stem}.txt", np.column_stack([points, labels]), "%.6f", delimiter=separator)
    return Path(root)


def write_eyecandies(root, category="CandyCane", shape=(32, 32), train=2, public=(("good", False), ("bumps", True), ("dents", False)), private=1, ball=False) -> Path:
    "Eyecandies: `public` lists (label, mask is filled). A camera over a belt, one block 0.2 m high on it, or half a ball."
    def write(folder, stem, label, filled, annotated):
        folder.mkdir(parents=True, exist_ok=True)
        H, W = shape
        depth = np.full(shape, 3.0); depth[H // 3:H // 2, W // 3:W // 2] = 2.8
        if ball: depth = 3 - .2 * np.sqrt(np.clip(1 - ((np.mgrid[:H, :W] - np.array([H / 2, W / 2])[:, None, None]) ** 2).sum(0) / (H / 3) ** 2, 0, None))
        pose = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 3], [0, 0, 0, 1.0]])        # 3 m above the belt, looking straight down
        block = np.zeros((*shape, 3), np.uint8); block[depth < 3] = 200
        for light in range(6): Image.fromarray(block // (light + 1)).save(folder / f"{stem}_image_{light}.png")
        Image.fromarray(((depth - 2) / 2 * 65535).round().astype(np.uint16)).save(folder / f"{stem}_depth.png")
        (folder / f"{stem}_info_depth.yaml").write_text(yaml.safe_dump({"normalization": {"min": 2.0, "max": 4.0}}))
        np.savetxt(folder / f"{stem}_pose.txt", pose)
        Image.fromarray(np.full((*shape, 3), (128, 204, 230), np.uint8)).save(folder / f"{stem}_normals.png")
        if annotated:
            (folder / f"{stem}_metadata.yaml").write_text(yaml.safe_dump({"anomalous": int(label != "good")} | {k: int(k == label) for k in ("bumps", "dents", "colors", "normals")}))
            Image.fromarray((depth < 3).astype(np.uint8) * 255 * filled).save(folder / f"{stem}_mask.png")
    for i in range(train): write(Path(root) / category / "train" / "data", f"{i:03}", "good", False, True)
    for i, (label, filled) in enumerate(public): write(Path(root) / category / "test_public" / "data", f"{i:02}", label, filled, True)
    for i in range(private): write(Path(root) / category / "test_private" / "data", f"{i:03}", "good", False, False)
    return Path(root)


def write_roads(root, frames=(1, 2, 3, 4, 5), name="dataset2", shape=(60, 90)) -> Path:
    "Road frames: `disp_tg` 16 bits with a lower pothole and one hole of the measurement, `label` in dark red. The pothole moves with the number of the frame."
    for number in frames:
        rng = np.random.default_rng(number)
        row, column = np.mgrid[:shape[0], :shape[1]]
        pothole = np.hypot(row - 30, column - 60 - number) < 12
        numbers = np.where(pothole, 40000, 60000) + rng.integers(0, 500, shape)
        numbers[0, 0], numbers[5, 5] = 65535, 0
        photo = np.where(pothole, 60, 120)[..., None] + rng.integers(0, 30, (*shape, 3))
        for kind, picture in (("rgb", photo.astype(np.uint8)), ("disp_tg", numbers.astype(np.uint16)), ("label", (pothole[..., None] * np.array([153, 0, 0])).astype(np.uint8))):
            path = Path(root) / name / kind / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    return Path(root)


def write_stable_diffusion(folder, kind) -> Path:
    "A random, very small Stable Diffusion, written as the real one is published."
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionImg2ImgPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    letters = [chr(c) for c in range(97, 123)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    torch.manual_seed(0)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                                        max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1))
    unet = UNet2DConditionModel(sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
                                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                                cross_attention_dim=16, attention_head_dim=2, use_linear_projection=True)
    vae = AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 8),
                        latent_channels=4, norm_num_groups=4)
    scheduler = PNDMScheduler(beta_start=.00085, beta_end=.012, beta_schedule="scaled_linear", prediction_type=kind, skip_prk_steps=True, steps_offset=1)
    StableDiffusionImg2ImgPipeline(vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None,
                                   feature_extractor=None, requires_safety_checker=False).save_pretrained(folder / kind)
    return folder / kind
