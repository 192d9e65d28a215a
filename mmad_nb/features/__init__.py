"From a capture to vectors: one feature per image patch and per group of points, and the way back to pixels."
from .image import ImageEncoder, bilinear, mix, pca_colours, similarity, tiny_vit, upsample

__all__ = ["ImageEncoder", "bilinear", "mix", "pca_colours", "similarity", "tiny_vit", "upsample"]
