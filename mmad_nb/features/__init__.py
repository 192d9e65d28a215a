"From a capture to vectors: one feature per image patch and per group of points, and the way back to pixels."
from .extract import Features, Mixing, extract
from .fpfh import FpfhEncoder, fpfh, pair_angles
from .image import ImageEncoder, bfloat16_pays, bilinear, mix, pca_colours, place_network, similarity, tiny_vit, upsample
from .normals import cloud_normals, relight, surface_normals
from .points import GroupEncoder, PointEncoder, PointMAE, farthest_point_sampling, group_points, interpolation, knn, tiny_point_mae
from .pretraining import forge_lessons, pretrain_image, pretrain_points
from .text import ClipEncoder, info_nce, prompt_vectors, tiny_clip, value_attention, zero_shot, zero_shot_anomaly
from .text_pretraining import train_tiny_clip
from .zoo import create_encoder, encoder_pair, find_weights, list_encoders

__all__ = ["FpfhEncoder", "fpfh", "pair_angles", "Features", "Mixing", "extract", "create_encoder", "encoder_pair", "find_weights", "list_encoders", "ImageEncoder", "bfloat16_pays", "bilinear", "mix", "pca_colours", "place_network", "similarity", "tiny_vit", "upsample",
           "GroupEncoder", "PointEncoder", "PointMAE", "farthest_point_sampling", "group_points", "interpolation", "knn", "tiny_point_mae",
           "cloud_normals", "relight", "surface_normals", "forge_lessons", "pretrain_image", "pretrain_points",
           "ClipEncoder", "info_nce", "prompt_vectors", "tiny_clip", "value_attention", "zero_shot", "zero_shot_anomaly", "train_tiny_clip"]
