"""The report's tables and what stands beside them, as HTML, from the figures that measure() made."""

from __future__ import annotations

import math
from typing import Any

from tinynet.pages import table, text
from tinynet.texts import interval, metric, percent

INTERVALS = {
    "patient-bootstrap": "95 % intervals resample whole patients, whose cells are not independent.",
    "wilson": "Patients are not known, so the 95 % intervals take cells as independent. Cells of one patient "
    "are not: the intervals are too narrow.",
}


def metrics(figures: dict[str, Any]) -> list[str]:
    """The report's Table 7, and the figures that do not depend on the threshold."""
    half, ends = figures["at_half"], figures["intervals"]
    names = {
        "accuracy": "accuracy",
        "f1": "F1 score",
        "precision": "precision",
        "sensitivity": "sensitivity",
        "specificity": "specificity",
    }
    rows = [
        [label, metric(figures[key]), interval(ends[key]), metric(half[key])] for key, label in names.items()
    ]
    header = ["", f"at {figures['threshold']:.4g}", "95 % interval", "at 0.5"]
    if figures["threshold"] == 0.5:
        header, rows = header[:3], [row[:3] for row in rows]
    free = [
        ["loss (mean cross-entropy, nats)", metric(figures["loss"]), interval(ends["loss"])],
        ["AUC", metric(figures["auc"]), interval(ends["auc"])],
    ]
    for key, name, other in (
        ("sensitivity_at_specificity", "sensitivity", "specificity"),
        ("specificity_at_sensitivity", "specificity", "sensitivity"),
    ):
        point = figures[key]
        label = f"{name} at {other} 0.99"
        if point is None:
            free.append([label, metric(None), "-"])
            continue
        level = "none" if point["threshold"] is None else f"{point['threshold']:.4g}"
        free.append([f"{label} (threshold {level})", metric(point["value"]), interval(point["interval"])])
    return [
        table(header, rows),
        "<p>Whatever the threshold:</p>",
        table(["", "", "95 % interval"], free),
        f'<p class="note">{INTERVALS[figures["interval_method"]]} The thresholds of the last two lines were '
        "found on these very cells, which flatters a little; one to use belongs to validation data.</p>",
    ]


def confusion(figures: dict[str, Any]) -> list[str]:
    """The report's Table 9."""
    counts = figures["confusion"]
    rows = []
    for name, (left, right) in (("uninfected", ("tn", "fp")), ("infected", ("fn", "tp"))):
        cells = [counts[left], counts[right]]
        support = sum(cells)
        shares = [f"{one:,}" + (f" ({100 * one / support:.1f} %)" if support else "") for one in cells]
        rows.append([name, *shares, f"{support:,}"])
    return [table(["true class", "called uninfected", "called infected", "cells"], rows)]


def worth(figures: dict[str, Any]) -> list[str]:
    """What an answer is worth among few infected cells."""
    values = figures["predictive_values"]
    infected = round(10_000 * values["prevalence"])
    per_cent = f"{100 * values['prevalence']:.3g} %"
    rows = [
        ["a cell called infected is", metric(values["positive"]), interval(values["intervals"]["positive"])],
        [
            "a cell called uninfected is not",
            metric(values["negative"]),
            interval(values["intervals"]["negative"]),
        ],
    ]
    parts = [table([f"where {per_cent} of the cells are infected", "probability", "95 % interval"], rows)]
    if figures["sensitivity"] is not None and figures["specificity"] is not None:
        found = infected * figures["sensitivity"]
        false = (10_000 - infected) * (1 - figures["specificity"])
        parts.append(
            f"<p>Of 10,000 cells of which {infected} are infected, about {found:.0f} infected ones would be "
            f"found and {infected - found:.0f} missed, and about {false:.0f} uninfected ones called infected "
            "too. A cell's answer is not a patient's.</p>"
        )
    parts.append(
        '<p class="note">Positive and negative predictive value at the model\'s threshold, by Bayes; the '
        "intervals join the ends of sensitivity's and specificity's. About half of the cells measured here "
        "may be infected; among a patient's cells far fewer are.</p>"
    )
    return parts


def calibration(figures: dict[str, Any]) -> list[str]:
    """Expected calibration error and log loss, before and after the temperature."""
    after = figures["calibration"]
    before = after["before"]
    header = ["", "expected calibration error", "log loss"]
    rows = [
        [
            f"at the model's temperature {after['temperature']:.4g}",
            metric(after["error"]),
            metric(after["loss"]),
        ]
    ]
    if before is not None:
        rows.insert(0, ["at temperature 1", metric(before["error"]), metric(before["loss"])])
        note = "The temperature was not chosen on this page: it stands in the model file."
    else:
        note = "The model file's temperature is 1: there is no before and after."
    return [
        table(header, rows),
        f'<p class="note">{note} The error is the mean distance, over the cells, between the mean '
        "probability of a bin and the share of it that is infected (ten bins). Bars are Wilson's 95 % "
        "intervals, which take cells as independent.</p>",
    ]


def costs(costs: dict[str, Any]) -> list[str]:
    """The report's Table 8."""
    size = costs["file_bytes"]
    shape = " x ".join(map(str, costs["input"]))
    numbers = math.prod(costs["input"])
    work, first = costs["multiply_accumulates"], costs["first_layer_multiply_accumulates"]
    rows = [
        [
            shape,
            f"{size / 1e6:.3f} ({size:,} bytes)",
            text(costs["number_format"]),
            f"{costs['parameters']:,}",
            f"{work:,}",
        ]
    ]
    header = ["image", "MB of the file", "numbers", "parameters", "multiply-accumulates an image"]
    note = (
        "Counted by the engine from the shapes of its layers. A multiply-accumulate is two floating-point "
        f"operations (FLOPs), so this is {2 * work:,} of them."
    )
    if 2 * first > 4600:
        note += (
            " The &quot;4600 FLOPs&quot; that the literature quotes for an autoencoder of this kind (Fuhad "
            "et al. 2020, and who cites it) cannot be a forward pass: one image of this model has "
            f"{numbers:,} numbers, and its first layer alone takes {first:,} multiply-accumulates."
        )
    return [table(header, rows, numbers_from=3), f'<p class="note">{note}</p>']


def patients(figures: dict[str, Any]) -> list[str]:
    """Cells and errors of every patient, those with most errors first."""
    rows = figures["by_patient"]
    if rows is None:
        return ["<p>Which patient a cell is of is not known here, or not used.</p>"]
    worst = sorted(rows, key=lambda row: -(row["false_positives"] + row["false_negatives"]))
    clean = sum(row["false_positives"] + row["false_negatives"] == 0 for row in rows)
    lines = []
    for row in worst:
        errors = row["false_positives"] + row["false_negatives"]
        share = percent(1 - errors / row["cells"])
        lines.append(
            [text(row["patient"])]
            + [f"{row[key]:,}" for key in ("cells", "infected", "false_positives", "false_negatives")]
            + [share]
        )
    header = ["patient", "cells", "infected", "false positives", "false negatives", "right"]
    return [
        f"<p>{len(rows)} patients, {clean} of them without an error. Those with most errors first.</p>",
        table(header, lines[:12]),
        *(
            [
                f"<details><summary>the other {len(lines) - 12}</summary>",
                table(header, lines[12:]),
                "</details>",
            ]
            if len(lines) > 12
            else []
        ),
    ]
