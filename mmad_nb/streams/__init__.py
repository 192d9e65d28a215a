"A second look at the same part: normals that a network guesses from the photo."
from .estimator import (NormalEstimator, band_sums, blurred, create_estimator, find_marigold, gaussian_transfer, list_estimators, matching_sigma,
                        taper, transfer, write_tiny_marigold)

__all__ = ["NormalEstimator", "band_sums", "blurred", "create_estimator", "find_marigold", "gaussian_transfer", "list_estimators", "matching_sigma",
           "taper", "transfer", "write_tiny_marigold"]
