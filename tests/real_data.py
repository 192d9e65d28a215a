"""Real captures of ../shared/data (or $MMAD_NB_REAL_DATA), brought into the layouts that our readers know. Nothing of them is kept in the repository."""
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from mmad_nb.data.clouds import read_pcd

SHARED = Path(os.environ.get("MMAD_NB_REAL_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def shared(*parts) -> Path:
    "A path below that folder; the test is skipped, and says so, where it is not there."
    path = SHARED.joinpath(*parts)
    if not path.exists(): pytest.skip(f"{path} is not there")
    return path


def kinect_to_mvtec(root, captures={"train/good": ["learn/learn0"], "test/objects": ["test/test0", "test/test24"]}) -> Path:
    """Real Kinect scenes (640 x 480, NaN where nothing was measured) in MVTec 3D-AD's layout, as the category `kinect`.

    The mask of a test capture marks the things on the table (labels from 20 on)."""
    for place, names in captures.items():
        folder = Path(root) / "kinect" / place
        for i, name in enumerate(names):
            cloud = read_pcd(shared("organised_rgbd", f"{name}.pcd"))
            grid = lambda column: column.reshape(cloud.height, cloud.width, *column.shape[1:])
            for kind in ("rgb", "xyz", "gt"): (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray((grid(cloud.colors) * 255).round().astype(np.uint8)).save(folder / "rgb" / f"{i:03}.png")
            tifffile.imwrite(folder / "xyz" / f"{i:03}.tiff", grid(cloud.points), photometric="rgb")
            Image.fromarray((grid(cloud.fields["label"]) >= 20).astype(np.uint8) * 255).save(folder / "gt" / f"{i:03}.png")
    return Path(root)
