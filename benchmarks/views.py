"""Nine 336 x 336 views of 100,000 points, rendered and back-projected: ours against a plain per-view loop and, where it runs, Open3D.

    python benchmarks/views.py [--repeats 5] [--threads 2]
    python benchmarks/views.py --open3d /path/to/python      # a Python that has Open3D; by default this one, if it has

Two clouds: a capture from one side with PointAD's cameras, and a closed scan with Real3D-AD's, which go all the way round. Every side makes shaded pictures, depth pictures and pictures of the labels, finds which point each view sees, and carries nine given maps back to the
points. The loop is vectorised NumPy, one view after the other, with the rule of the published code (one point is seen in each pixel) and discs of one
width: less work than ours, which also closes holes. Points that no view sees take the score of the nearest seen one, found with scipy's tree by both. Open3D draws with its own off-screen renderer (EGL; it is skipped where that fails), colours and depth;
the pixel of each point and what is seen come from the loop's own projection, as in the published code. Normals are given. Memory: the peak of a process of its
own, less that of a process that only loads what both need. Ends with a line for each goal.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import alternate, alternate_commands, goal, medians, table

SIZE, DISC = 336, 5


def placed(points, turn):
    "Positions before the camera, by the same rule as ours."
    local = points @ turn.T
    local -= (local.min(0) + local.max(0)) / 2
    tan = np.tan(np.radians(30))
    far = max(.7 * np.ptp(local, axis=0).max() / tan, (np.abs(local[:, :2]).max(1) / (.98 * tan) - local[:, 2]).max())
    local[:, 2] += far
    return local, np.clip(local[:, :2] / local[:, 2:] * (SIZE / 2 / tan) + SIZE / 2, 0, SIZE - 1).astype(int)


def seen_points(depth, pixel):
    "The nearest point of each pixel."
    order = np.lexsort((depth, pixel))
    first = np.ones(len(order), bool)
    first[1:] = pixel[order][1:] != pixel[order][:-1]
    visible = np.zeros(len(order), bool)
    visible[order[first]] = True
    return visible


def means(total, count, points):
    "The mean over the views that see a point; of the nearest seen point where there is none."
    from scipy.spatial import cKDTree
    seen = count > 0
    scores = total / np.maximum(count, 1)
    if not seen.all(): scores[~seen] = scores[seen][cKDTree(points[seen]).query(points[~seen])[1]]
    return scores


def plain(points, normals, labels, maps, turns):
    "One view after the other: draw from far to near, disc pixel by disc pixel; then add up the maps."
    total, count, pictures = np.zeros(len(points), np.float32), np.zeros(len(points), np.float32), []
    r = DISC // 2
    disc = [(a, b) for a in range(-r, r + 1) for b in range(-r, r + 1) if a * a + b * b <= DISC ** 2 / 4]
    for turn, scores in zip(turns, maps):
        local, uv = placed(points, turn)
        facing = normals @ turn.T
        lit = facing @ np.float32([-.39, -.56, -.73])
        brightness = .7 * (.3 + .7 * np.clip(np.where((facing * local).sum(1) > 0, -lit, lit), 0, None))
        order = np.argsort(-local[:, 2], kind="stable")
        owner = np.full((SIZE + 2 * r, SIZE + 2 * r), -1)
        column, row = uv[order].T
        every = np.stack([(row + r + a) * (SIZE + 2 * r) + column + r + b for a, b in disc], 1).ravel()   # a point's disc, then the next's
        owner.reshape(-1)[every] = np.repeat(order, len(disc))
        owner = owner[r:r + SIZE, r:r + SIZE]
        drawn = owner >= 0
        depth = local[owner, 2]
        near, far = depth[drawn].min(), depth[drawn].max()
        pictures.append((np.where(drawn, brightness[owner], 1), np.where(drawn, 1 - (depth - near) / (far - near), 1), drawn & labels[owner], owner))
        visible = seen_points(local[:, 2], uv[:, 1] * SIZE + uv[:, 0])
        total += visible * scores[uv[:, 1], uv[:, 0]]
        count += visible
    return pictures, means(total, count, points), count


OPEN3D = r"""
import json, resource, sys, time
import numpy as np
import open3d as o3d
sys.path.insert(0, sys.argv[2])
from views import SIZE, means, placed, seen_points
data = np.load(sys.argv[1])
points, normals, labels, maps, turns = (data[name] for name in ("points", "normals", "labels", "maps", "turns"))
rendering = o3d.visualization.rendering
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
renderer = rendering.OffscreenRenderer(SIZE, SIZE)
grey, marked = rendering.MaterialRecord(), rendering.MaterialRecord()
grey.shader, marked.shader, grey.point_size, marked.point_size = "defaultLit", "defaultUnlit", 5, 5
grey.base_color = [.7, .7, .7, 1]
def shown(cloud, material, background):
    renderer.scene.set_background(background)
    renderer.scene.add_geometry("cloud", cloud, material)
    renderer.setup_camera(60.0, [0, 0, 1], [0, 0, 0], [0, -1, 0])
    return np.asarray(renderer.render_to_image())
def once():
    total, count, pictures = np.zeros(len(points), np.float32), np.zeros(len(points), np.float32), []
    for turn, scores in zip(turns, maps):
        local, uv = placed(points, turn)
        cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(local))
        cloud.normals = o3d.utility.Vector3dVector(normals @ turn.T)
        shade = shown(cloud, grey, [1, 1, 1, 1])
        depth = np.asarray(renderer.render_to_depth_image(True))
        renderer.scene.remove_geometry("cloud")
        cloud.colors = o3d.utility.Vector3dVector(np.repeat(labels[:, None], 3, 1).astype(float))
        truth = shown(cloud, marked, [0, 0, 0, 1])[..., 0] > 127
        renderer.scene.remove_geometry("cloud")
        pictures.append((shade, depth, truth))
        visible = seen_points(local[:, 2], uv[:, 1] * SIZE + uv[:, 0])
        total += visible * scores[uv[:, 1], uv[:, 0]]
        count += visible
    return pictures, means(total, count, points)
pictures, _ = once()
times = []
for _ in range(int(sys.argv[3])):
    now = time.perf_counter(); once(); times.append(time.perf_counter() - now)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - start
print("RESULT", json.dumps(dict(seconds=times, peak=peak, drawn=float(np.mean([(p[0] < 250).any(2).mean() for p in pictures])))))
"""


def by_open3d(python, data, repeats):
    "What Open3D takes in a process of its own, or why it does not run here."
    try: done = subprocess.run([python, "-c", OPEN3D, data, str(Path(__file__).parent), str(repeats)], capture_output=True, text=True, timeout=300,
                               env={**os.environ, "EGL_PLATFORM": "surfaceless"})
    except (OSError, subprocess.TimeoutExpired) as error: return type(error).__name__
    line = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    return json.loads(line[0][7:]) if line else (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1][:200]


CASES = {"capture": "pointad", "closed scan": "real3d"}


def made(case):
    "A cloud of about 100,000 points with normals and labels."
    from mmad_nb.data import prepare, with_normals
    from mmad_nb.forge import forge_cloud, forge_sample
    if case == "closed scan": return forge_cloud("knot0", "bulge", seed=1, points=100_000)
    return with_normals(prepare(forge_sample("bagel", "dent", seed=1, size=900), size=620).cloud())


def sides(data):
    "The two things to compare, on the arrays of one cloud."
    import torch

    from mmad_nb.data import Cloud
    from mmad_nb.views import Cameras, back_project, render
    points, normals, labels, maps, turns = (data[name] for name in ("points", "normals", "labels", "maps", "turns"))
    cloud, cameras, given = Cloud(points, normals, labels), Cameras(tuple(map(str, range(len(turns)))), torch.from_numpy(turns)), torch.from_numpy(maps)

    def ours(visibility="surface"):
        views = render(cloud, cameras, SIZE, DISC, visibility, device="cpu")
        return views, back_project(given, views)
    return {"ours": ours, "plain loop": lambda: plain(points, normals, labels, maps, turns)}


def processor_seconds(both, repeats):
    "Median seconds of processor time of each, in turn: what other work on the machine hardly changes."
    spent = {name: [] for name in both}
    for _ in range(repeats):
        for name, job in both.items():
            start = time.process_time()
            job()
            spent[name].append(time.process_time() - start)
    return {name: float(np.median(seconds)) for name, seconds in spent.items()}


def compare(case, path, options):
    "Prints the table and the goals of one cloud."
    data = dict(np.load(path))
    both = sides(data)
    pictures, scores, count = both["plain loop"]()
    views, same_rule = both["ours"]("pixel")
    # not the same owners: where depths are nearly equal, rounding decides which of two neighbours is drawn
    agree = np.mean([[np.abs(ours[v, 0].numpy() - picture[k]) < .05 for k, ours in enumerate((views.shade, views.depth))] for v, picture in enumerate(pictures)])
    close = np.mean(np.abs(same_rule.numpy() - scores)[count > 0] < 1e-5)
    print(f"\n{case}: {len(data['points']):,} points; with the loop's rule {agree:.1%} of the pixels agree to 0.05 and {close:.1%} of the seen points "
          f"have the same score; seen by no view: ours {1 - both['ours']()[0].visible.any(0).float().mean():.1%}, loop {(count == 0).mean():.1%}")
    assert agree > .97 and close > .95
    runs = alternate(both, options.repeats)
    table(runs, f"{case}, time")
    spent = processor_seconds(both, options.repeats)
    print("processor seconds: " + ", ".join(f"{name} {seconds:.3f}" for name, seconds in spent.items()) + f", {spent['plain loop'] / spent['ours']:.1f}x")
    alone = {name: [sys.executable, __file__, "--one", name, "--data", path] for name in ("nothing", "ours", "plain loop")}
    peaks = {name: run.peak for name, run in medians(alternate_commands(alone, 2)).items()}
    print("peak memory: " + ", ".join(f"{name} {peaks[name] - peaks['nothing']:.0f} MiB" for name in ("ours", "plain loop")))
    middle = {name: run.seconds for name, run in medians(runs).items()}
    goal(f"views, {case}, plain loop", middle["plain loop"] / middle["ours"], wanted=5)
    peer = by_open3d(options.open3d, path, options.repeats)
    if isinstance(peer, str): return print(f"Open3D off-screen does not run here: {peer}")
    seconds = float(np.median(peer["seconds"]))
    print(f"Open3D off-screen: {seconds:.4f} s ({min(peer['seconds']):.4f} .. {max(peer['seconds']):.4f}), peak memory {peer['peak']:.0f} MiB, "
          f"{peer['drawn']:.0%} of the pixels drawn, ours {(views.owner >= 0).float().mean():.0%}")
    goal(f"views, {case}, Open3D", seconds / middle["ours"], wanted=5)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--open3d", default=sys.executable, help="a Python that has Open3D")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    options = parser.parse_args()
    import torch

    from mmad_nb.views import create_cameras
    if options.threads: torch.set_num_threads(options.threads)
    if options.one:
        both = sides(dict(np.load(options.data)))
        return None if options.one == "nothing" else both[options.one]()
    print(f"{torch.get_num_threads()} threads, {options.repeats} runs each, in turn")
    with tempfile.TemporaryDirectory() as folder:
        for case, cameras in CASES.items():
            cloud, path = made(case), os.path.join(folder, "cloud.npz")
            maps = np.random.default_rng(0).random((9, SIZE, SIZE)).astype(np.float32)
            np.savez(path, points=cloud.points, normals=cloud.normals, labels=cloud.labels, maps=maps, turns=create_cameras(cameras).rotations.numpy())
            compare(case, path, options)


if __name__ == "__main__":
    main()
