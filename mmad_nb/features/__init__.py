"From a capture to vectors: one feature per image patch and per group of points, and the way back to pixels."
from .extract import Features, Mixing, extract
from .fpfh import FpfhEncoder, fpfh, pair_angles
from .image import ImageEncoder, bfloat16_pays, bilinear, mix, pca_colours, place_network, similarity, tiny_vit, upsample
from .normals import colours_to_normals, normal_colours, relight, surface_normals
from .pointnet2 import PointNet2, create_pointnet2, outlier_scores, tiny_pointnet2, unit_sphere
from .points import GroupEncoder, PointEncoder, PointMAE, farthest_point_sampling, group_points, interpolation, tiny_point_mae
from .text import (ClipEncoder, SentenceEncoder, info_nce, prompt_vectors, tiny_clip, value_attention, zero_shot,
                   zero_shot_anomaly)
from .zoo import create_encoder, encoder_pair, find_weights, list_encoders

__all__ = ["ClipEncoder", "Features", "FpfhEncoder", "GroupEncoder", "ImageEncoder", "Mixing", "PointEncoder",
           "PointMAE", "PointNet2", "SentenceEncoder", "bfloat16_pays", "bilinear", "colours_to_normals",
           "create_encoder", "create_pointnet2", "encoder_pair", "extract", "farthest_point_sampling",
           "find_weights", "fpfh", "group_points", "info_nce", "interpolation", "list_encoders", "mix",
           "normal_colours", "outlier_scores", "pair_angles", "pca_colours", "place_network", "prompt_vectors",
           "relight", "similarity", "surface_normals", "tiny_clip", "tiny_point_mae", "tiny_pointnet2", "tiny_vit",
           "unit_sphere", "upsample", "value_attention", "zero_shot", "zero_shot_anomaly"]
