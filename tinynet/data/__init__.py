"""Data sets: the NIH folder of cell images, splits by patient or image, the cache of decoded images."""

from .cache import Images, cache_directory, load_images
from .folder import CLASS_NAMES, CellFolder, patient_of, scan_folder
from .splits import (
    REPORT_SHARES,
    cross_validation_parts,
    folds_by_image,
    folds_by_patient,
    split_by_image,
    split_by_patient,
)

__all__ = [
    "CLASS_NAMES",
    "REPORT_SHARES",
    "CellFolder",
    "Images",
    "cache_directory",
    "cross_validation_parts",
    "folds_by_image",
    "folds_by_patient",
    "load_images",
    "patient_of",
    "scan_folder",
    "split_by_image",
    "split_by_patient",
]
