"""Farthest point sampling, nearest neighbours and the group encoder, each beside the plain torch way, A B A B.

    python benchmarks/points.py [--repeats 5] [--threads 2]
"""
import argparse

import torch
from harness import alternate, goal, medians, table

from mmad_nb.data.neighbours import knn
from mmad_nb.features.points import GroupEncoder, farthest_point_sampling


def plain_sampling(points, count):
    "One round a choice, on arrays of shape (N,3)."
    chosen, nearest = [0], torch.full((len(points),), float("inf"))
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)


def plain_neighbours(queries, points, k):
    "The whole table of distances, then its k smallest columns."
    return torch.cdist(queries, points).topk(k, largest=False)


def plain_tokens(encoder, offsets):
    "Point-MAE's mini-PointNet layer by layer, all points at once."
    local = encoder.first_conv(offsets.transpose(1, 2))
    summary = local.amax(2, keepdim=True).expand_as(local)
    return encoder.second_conv(torch.cat([summary, local], 1)).amax(2)


def compare(name, ours, plain, repeats):
    "Both in turn; prints the table, gives how many times faster ours is."
    runs = alternate({"ours": ours, "plain torch": plain}, repeats)
    table(runs, name)
    middle = medians(runs)
    return middle["plain torch"].seconds / middle["ours"].seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(50_000, 3, generator=generator) * torch.tensor([0.1, 0.1, 0.02])
    chosen, by_plain = farthest_point_sampling(points, 1024), plain_sampling(points, 1024)
    assert torch.equal(chosen, by_plain), "the two samplings differ"
    centers = points[chosen]
    near = knn(centers, points, 128)[0]
    exact = torch.cdist(centers.double(), points.double()).topk(128, largest=False).values.float()
    assert torch.allclose(near, exact, atol=1e-7), "the neighbours are not the nearest"
    encoder = GroupEncoder(384).requires_grad_(False)
    offsets = 0.005 * torch.randn(1024, 32, 3, generator=generator)
    assert torch.allclose(encoder(offsets), plain_tokens(encoder, offsets), atol=1e-3), "the tokens differ"

    print(f"{options.threads} threads, {options.repeats} runs each, in turn")
    fps = compare("FPS, 1024 of 50,000", lambda: farthest_point_sampling(points, 1024), lambda: plain_sampling(points, 1024), options.repeats)
    neighbours = compare("k-NN, 1024 x 50,000, k 128", lambda: knn(centers, points, 128), lambda: plain_neighbours(centers, points, 128), options.repeats)
    tokens = compare("1024 groups of 32", lambda: encoder(offsets), lambda: plain_tokens(encoder, offsets), options.repeats)
    print()
    goal("fps", fps)
    goal("knn", neighbours)
    goal("group encoder", tokens)


if __name__ == "__main__":
    main()
