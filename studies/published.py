"""What the post and the report state, as they state it; and where they contradict themselves.

The report: M. Törnqvist, "Given NIH blood smear dataset use pattern recognition to detect automatically
malaria parasites", final project report, ENS Paris-Saclay.
"""

from __future__ import annotations

POST_VALIDATION_ACCURACY = "0.96"

# Table 1: cells by part.
TABLE_1 = (
    ("Training", 9389, 9496, 18885),
    ("Validation", 1067, 1031, 2098),
    ("Test", 2709, 2537, 5266),
)

# Table 2: augmentation.
TABLE_2 = (
    ("Random rotation", "20"),
    ("Random scale", "[0, 0.05]"),
    ("Width/height shift", "[-0.05, 0.05]"),
    ("Shear intensity", "[-0.05, 0.05]"),
    ("Horizontal flip", "True"),
)

# Table 3: training accuracy and loss, validation accuracy and loss, after 50 epochs.
TABLE_3 = (
    ("ResNet50", "0.992", "0.024", "0.990", "0.041"),
    ("ResNet34", "0.985", "0.048", "0.980", "0.062"),
    ("ResNet18", "0.989", "0.033", "0.988", "0.038"),
    ("SqueezeNet", "0.967", "0.101", "0.979", "0.097"),
    ("MobileNetV2", "0.992", "0.022", "0.986", "0.043"),
)

TABLE_4 = ("0.097", "0.071")  # reconstruction: training and validation loss after 400 epochs
TABLE_5 = ("0.672", "0.606", "0.651", "0.631")  # on frozen features: as Table 3
TABLE_6 = ("0.977", "0.073", "0.985", "0.060")  # unfrozen

# Table 7: accuracy, loss, F1, precision, specificity, sensitivity on the test images.
TABLE_7 = (
    ("ResNet50", "0.987", "0.039", "0.988", "0.992", "0.984", "0.992"),
    ("ResNet34", "0.980", "0.056", "0.980", "0.982", "0.983", "0.978"),
    ("ResNet18", "0.987", "0.038", "0.987", "0.981", "0.982", "0.993"),
    ("MobileNetV2", "0.987", "0.042", "0.987", "0.984", "0.985", "0.991"),
    ("SqueezeNet", "0.968", "0.091", "0.968", "0.986", "0.969", "0.986"),
    ("Autoencoder", "0.979", "0.068", "0.980", "0.969", "0.971", "0.989"),
)

# Table 8: image size, MB, FLOPs.
TABLE_8 = (
    ("ResNet50", "224 x 224", "201", "4G"),
    ("ResNet34", "224 x 224", "118", "4G"),
    ("ResNet18", "224 x 224", "68", "2G"),
    ("MobileNetV2", "224 x 224", "52", "579M"),
    ("SqueezeNet", "224 x 224", "35", "837M"),
    ("Autoencoder", "32 x 32", "0.5", "-"),
)

TABLE_9 = {"tn": 2518, "fp": 29, "fn": 80, "tp": 2639}  # of the autoencoder

SWAPPED = (
    "The report's Table 7 has its autoencoder's sensitivity and specificity swapped: its confusion matrix "
    "(Table 9) gives sensitivity 2639/2719 = 0.971, specificity 2518/2547 = 0.989 and precision "
    "2639/2668 = 0.989. Compare with those."
)


def table_9() -> dict[str, float]:
    """Accuracy, sensitivity, specificity, precision and F1 as the report's confusion matrix has them."""
    tn, fp, fn, tp = (TABLE_9[name] for name in ("tn", "fp", "fn", "tp"))
    return {
        "accuracy": (tn + tp) / (tn + fp + fn + tp),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "precision": tp / (tp + fp),
        "f1": 2 * tp / (2 * tp + fp + fn),
    }
