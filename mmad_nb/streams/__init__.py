"More from few photos: pictures like them, drawn by a diffusion model, and normals that a network guesses from a photo; and two pictures of a cloud that are read together."
from .augment import augment, create_generator, first_photos, list_generators
from .estimator import (NormalEstimator, band_sums, blurred, create_estimator, find_marigold, gaussian_transfer, list_estimators, matching_sigma,
                        taper, transfer, write_tiny_marigold)
from .synergy import SRM, DepthTower, LowRank, Refined, consistency_loss, two_way_attention

__all__ = ["DepthTower", "LowRank", "NormalEstimator", "Refined", "SRM", "augment", "band_sums", "blurred", "consistency_loss", "create_estimator",
           "create_generator", "find_marigold", "first_photos", "gaussian_transfer", "list_estimators", "list_generators", "matching_sigma",
           "taper", "transfer", "two_way_attention", "write_tiny_marigold"]
