"What the sensor saw: samples and clouds, forged or read from disk, and made ready for the encoders."
from .sample import Cloud, Sample

__all__ = ["Cloud", "Sample"]
