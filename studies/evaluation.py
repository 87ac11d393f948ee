"""The report's evaluation, of the autoencoder's classifier and the small CNN: Tables 7 to 9, Figures 7 to 9.

    python -m studies.evaluation --data DIR [--exclude LIST] --out OUT

Pooled predictions for patients that were not learned from; and, as the report divided its cells, by image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import tinynet as tn
from studies import drawing, published, small_cnn
from studies.folds import SETS, cross_validated, data_of, fold_folder, measured, model_of, who
from studies.sizes import BATCH, microseconds
from studies.study import Findings, Settings, kept, with_interval
from tinynet import image_files, plot_style, plots, report
from tinynet.calibration import best_temperature
from tinynet.data import scan_folder
from tinynet.images import resize
from tinynet.inspect import activation_maps, grad_cam, last_maps, mean_map
from tinynet.inspect import drawing as heat
from tinynet.report.charts import reliability_figure
from tinynet.report.evaluated import costs
from tinynet.runs import RunConfig, predictions
from tinynet.runs.crossvalidation import VALIDATION_FILE, Pooled
from tinynet.runs.data import RunData
from tinynet.runs.predictions import Predictions
from tinynet.texts import number

TITLE = "Evaluation"
FIGURES = ("accuracy", "loss", "f1", "precision", "specificity", "sensitivity")
SHOWN = {"tp": 2, "tn": 2, "fp": 3, "fn": 3}  # cells of each field in Figures 7 to 9
SIDE = 128  # pixels of a cell in them


def autoencoder_config(settings: Settings) -> RunConfig:
    """The recipe of `tinynet train --model autoencoder`."""
    return settings.config("autoencoder", epochs=settings.epochs or (1 if settings.quick else None))


def run(settings: Settings, folder: Path, keep: Callable[[Findings], None]) -> Findings:
    """The cheapest first; what there is so far is kept."""
    by_patient, found = autoencoder_config(settings), Findings()
    rows = [
        ("autoencoder", by_patient),
        ("autoencoder", replace(by_patient, split="image")),
        ("small CNN", small_cnn.config_of(settings)),
    ]
    pooled: dict[tuple[str, str], tuple[RunConfig, Pooled]] = {}
    looked: list[dict[str, Any]] = []
    for name, config in rows:
        pooled[name, config.split] = (config, cross_validated(settings, config))
        if config.split == "patient":
            looked += _looked_at(settings, folder, name, config)
        found = _findings(settings, folder, pooled)
        found.parts += looked
        keep(found)
    return found


def _findings(
    settings: Settings, folder: Path, pooled: dict[tuple[str, str], tuple[RunConfig, Pooled]]
) -> Findings:
    found = Findings()
    figures = {key: measured(one)["sets"] for key, (_, one) in pooled.items()}
    found.values["sets"] = {f"{name} by {split}": sets for (name, split), sets in figures.items()}
    _table_7(found, settings, figures)
    _beside(found, settings, folder, pooled)
    _table_8(found, settings, folder, pooled)
    _table_9(found, figures)
    return found


def _table_7(found: Findings, settings: Settings, figures: dict[tuple[str, str], dict[str, Any]]) -> None:
    rows = [[f"the report: {name}", "by image", *values, "-"] for name, *values in published.TABLE_7]
    right = published.table_9()
    corrected = [number(right.get(name), 3) for name in FIGURES]
    rows.append(["the report: Autoencoder, from its Table 9", "by image", *corrected, "-"])
    rows += [[f"ours: {name}", *["-"] * 8] for name, *_ in published.TABLE_7 if name != "Autoencoder"]
    for (name, split), sets in figures.items():
        for label_set, tested in sets.items():
            for level, at in (("validation's threshold", tested), ("0.5", tested["at_half"])):
                values = [with_interval(at[key], at["intervals"].get(key)) for key in FIGURES]
                auc = with_interval(tested["auc"], tested["intervals"]["auc"])
                rows.append([f"ours: {name}, {SETS[label_set]}, {level}", f"by {split}", *values, auc])
    folds = ", ".join(map(str, settings.tested()))
    tested = next(iter(next(iter(figures.values())).values()))
    found.table(
        "Table 7",
        "Performance on the test cells",
        ["", "divided", "accuracy", "loss", "F1", "precision", "specificity", "sensitivity", "AUC"],
        rows,
        published.SWAPPED,
        f"Ours: folds {folds} of {settings.of_folds} pooled ({who(tested)}), trained without the images that "
        "--exclude lists; the threshold is chosen on each fold's validation part, or is 0.5. 95 % intervals "
        "resample patients. Divided by image, cells of one patient are in training and test, which flatters "
        "every model; the report's division is such. Lines with dashes are for networks that come later.",
    )


def _beside(
    found: Findings, settings: Settings, folder: Path, pooled: dict[tuple[str, str], tuple[RunConfig, Pooled]]
) -> None:
    """What a threshold can reach, and calibration: what Table 7 lacks."""
    points, calibration = [], []
    for (name, split), (config, one) in pooled.items():
        if split != "patient":
            continue
        scaled, temperatures = _with_temperature(settings, config, one)
        for label_set, cells in one.predictions.sets().items():
            after = scaled.sets()[label_set] if scaled is not None else cells
            answers = report.Evaluated(
                cells.labels,
                after.probabilities,
                patients=cells.patients,
                uncalibrated=cells.probabilities,
                seed=settings.seed,
            )
            measured_here = report.measure(answers)
            found.values[f"{name}, {label_set}"] = measured_here | {
                "temperatures": temperatures, "mistakes": None, "by_patient": None,
            }  # fmt: skip
            line = [f"{name}, {SETS[label_set]}"]
            for key in ("sensitivity_at_specificity", "specificity_at_sensitivity"):
                point = measured_here[key]
                line.append("-" if point is None else with_interval(point["value"], point["interval"]))
            worth = measured_here["predictive_values"]
            line.append(with_interval(worth["positive"], worth["intervals"]["positive"], 3))
            points.append(line)
            now, before = measured_here["calibration"], measured_here["calibration"]["before"]
            told = ", ".join("-" if t is None else f"{t:.2f}" for t in temperatures)
            calibration.append(
                [
                    line[0],
                    told,
                    *(number(v) for v in (before["error"], now["error"], before["loss"], now["loss"])),
                ]
            )
            file = f"roc-{name.replace(' ', '-')}-{label_set}.png"
            plots.save_roc(cells.labels, cells.probabilities, folder / file)
            found.picture("", file, f"ROC curve of the {name}, {SETS[label_set]}; the dot is threshold 0.5.")
            file = f"reliability-{name.replace(' ', '-')}-{label_set}.png"
            plot_style.save(reliability_figure(now), folder / file)
            found.picture("", file, f"Reliability of the {name}'s probabilities, {SETS[label_set]}.")
    found.table(
        "",
        "Operating points, unseen patients",
        [
            "",
            "sensitivity at specificity 0.99 (95 %)",
            "specificity at sensitivity 0.99 (95 %)",
            "a cell called infected is, at 1 % infected",
        ],
        points,
        "The first two choose their threshold on these very cells, which flatters a little. The last is at "
        "threshold 0.5, by Bayes.",
    )
    found.table(
        "",
        "Calibration: one temperature, chosen on each fold's validation part",
        ["", "temperature of each fold", "calibration error before", "after", "log loss before", "after"],
        calibration,
    )


def _with_temperature(
    settings: Settings, config: RunConfig, one: Pooled
) -> tuple[Predictions | None, list[float | None]]:
    """The predictions with each fold's logits divided by the temperature of its validation part."""
    probabilities, temperatures = one.predictions.probabilities.copy(), []
    for fold in one.done:
        held = predictions.read(fold_folder(settings, config, fold) / VALIDATION_FILE.format(""))
        best = best_temperature(_logits(held.probabilities)[:, None], held.labels)
        temperatures.append(best)
        if best is not None:
            own = one.predictions.folds == fold
            probabilities[own] = 1 / (1 + np.exp(-_logits(probabilities[own]) / best))
    return replace(one.predictions, probabilities=probabilities), temperatures


def _logits(probabilities: np.ndarray) -> np.ndarray:
    """log p / (1 - p); probabilities are float32's, so none is closer to 0 or 1 than a float32 shows."""
    clipped = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return np.log(clipped) - np.log1p(-clipped)


def _table_8(
    found: Findings, settings: Settings, folder: Path, pooled: dict[tuple[str, str], tuple[RunConfig, Pooled]]
) -> None:
    rows = [
        [f"the report: {name}", size, mb, flops, "-", "-", "-"] for name, size, mb, flops in published.TABLE_8
    ]
    rows += [[f"ours: {name}", *["-"] * 6] for name, *_ in published.TABLE_8 if name != "Autoencoder"]
    note = ""
    for (name, split), (config, _) in pooled.items():
        if split != "patient":
            continue
        model = model_of(settings, config, settings.tested()[0])
        path = fold_folder(settings, config, settings.tested()[0]) / "model.safetensors"
        spent = costs(model, path.stat().st_size)
        assert model.input_shape is not None
        size = model.input_shape[0]
        data = data_of(settings, size)
        timed = kept(
            folder / f"time-{name.replace(' ', '-')}.json",
            partial(microseconds, model, data.of(data.test[:BATCH])),
        )
        work, first = spent["multiply_accumulates"], spent["first_layer_multiply_accumulates"]
        found.values[f"costs of {name}"] = spent | {"time": timed}
        rows.append(
            [
                f"ours: {name}",
                f"{size} x {size}",
                f"{spent['file_bytes'] / 1e6:.3f}",
                f"{2 * work:,}",
                f"{work:,}",
                f"{spent['parameters']:,}",
                number(timed["batch"], 1),
            ]
        )
        if name == "autoencoder":
            note = (
                "The 4600 FLOPs that the literature quotes for this autoencoder (Fuhad et al. 2020) cannot "
                f"be a forward pass: one cell of {size} x {size} pixels has {3 * size * size:,} numbers, and "
                f"the first layer alone multiplies and adds {first:,} times."
            )
    found.table(
        "Table 8",
        "Computational resources",
        ["", "image size", "MB", "FLOPs", "multiply-accumulates", "parameters", "µs an image, in a batch"],
        rows,
        "Counted from the shapes of the layers; a multiply-accumulate is two FLOPs. The report's are as it "
        "gives them.",
        note,
    )


def _table_9(found: Findings, figures: dict[tuple[str, str], dict[str, Any]]) -> None:
    rows = []
    theirs = published.TABLE_9

    def lines(name: str, counts: dict[str, int]) -> None:
        tn_, fp, fn, tp = (counts[key] for key in ("tn", "fp", "fn", "tp"))
        rows.append(
            [name, "uninfected", f"{tn_:,}", f"{fp:,}", f"{tn_ + fp:,}", number(_share(tn_, tn_ + fp))]
        )
        rows.append(["", "parasitized", f"{fn:,}", f"{tp:,}", f"{fn + tp:,}", number(_share(tp, fn + tp))])

    lines("the report: autoencoder, by image", theirs)
    for (name, split), sets in figures.items():
        for label_set, tested in sets.items():
            lines(f"ours: {name}, by {split}, {SETS[label_set]}", tested["confusion"])
    found.table(
        "Table 9",
        "Confusion matrices",
        [
            "",
            "true class",
            "called uninfected",
            "called parasitized",
            "support",
            "right: specificity, sensitivity",
        ],
        rows,
        "Ours at the threshold of each fold's validation part.",
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _looked_at(settings: Settings, folder: Path, name: str, config: RunConfig) -> list[dict[str, Any]]:
    """Parts of a page: Figures 7 to 9 of the first fold's model, and where its page of mistakes is."""
    found = Findings()
    fold = settings.tested()[0]
    model = model_of(settings, config, fold)
    assert model.input_shape is not None
    data = data_of(settings, model.input_shape[0])
    paths = _paths(settings)

    def picture(cell: int) -> np.ndarray:
        return image_files.decode(paths[data.names[data.test[cell]]])

    answers = report.Evaluated(
        data.labels[data.test],
        model.predict(data.of(data.test))[:, 1].astype(np.float64),
        [data.names[place] for place in data.test],
        data.patients[data.test],
        load_image=picture,
        seed=settings.seed,
    )
    plain = name.replace(" ", "-")
    report.write(
        folder / f"page-{plain}",
        answers,
        f"The {name} on fold {fold} of {settings.of_folds}",
        notes=[f"Patients of fold {fold}, not learned from. Threshold 0.5."],
        model=model,
    )
    found.text(
        f"The {name} on fold {fold}, with galleries of what it gets wrong: "
        f"[evaluation/page-{plain}/index.html](evaluation/page-{plain}/index.html)."
    )
    chosen = [(field, cell) for field, cells in _cells(answers).items() for cell in cells]
    if chosen:
        _maps(found, folder, plain, name, model, data, answers, chosen)
    return found.parts


def _paths(settings: Settings) -> dict[str, Path]:
    cells = scan_folder(settings.data)
    return dict(zip(cells.names, cells.paths, strict=True))


def _cells(answers: report.Evaluated) -> dict[str, list[int]]:
    """The surest of each kind of answer: right ones of both classes, false positives, false negatives."""
    fields = answers.fields()
    return {field: fields[field][:count].tolist() for field, count in SHOWN.items()}


def _maps(
    found: Findings,
    folder: Path,
    plain: str,
    name: str,
    model: tn.Sequential,
    data: RunData,
    answers: report.Evaluated,
    chosen: list[tuple[str, int]],
) -> None:
    assert answers.load_image is not None
    cells = [cell for _, cell in chosen]
    images = data.of(data.test[np.array(cells)])
    layer = last_maps(model)
    maps, cam = activation_maps(model, images, layer), grad_cam(model, images, 1, layer)
    mean = mean_map(maps)
    pictures = [resize(answers.load_image(cell), SIDE, SIDE) for cell in cells]
    kinds = {
        "tp": "infected, found", "tn": "uninfected", "fp": "false positive", "fn": "false negative",
    }  # fmt: skip
    shown = np.sort(np.argsort(-maps.max(axis=(0, 1, 2)), kind="stable")[:6])
    right = [k for k, (field, _) in enumerate(chosen) if field in ("tp", "tn")]
    wrong = [k for k, (field, _) in enumerate(chosen) if field in ("fp", "fn")]

    def heated(values: np.ndarray, k: int) -> np.ndarray:
        return heat.overlay(pictures[k], heat.unit_range(values[k], 0.0 if values is cam else None))

    def caption(k: int) -> str:
        return f"{kinds[chosen[k][0]]}\n{answers.probabilities[cells[k]]:.4f}"

    if right:
        tiles = [[pictures[k], *heat.map_tiles(maps[k][..., shown])] for k in right]
        above = ["cell", *(f"map {channel}" for channel in shown)]
        drawing.rows(tiles, [caption(k) for k in right], above, folder / f"maps-{plain}.png")
        found.picture("Figure 7", f"maps-{plain}.png", f"Activation maps of {layer}, the {name}.")
    for number_, some, what in (("Figure 8", right, "right"), ("Figure 9", wrong, "wrong")):
        if some:
            file = f"heat-{what}-{plain}.png"
            tiles = [[pictures[k], heated(mean, k), heated(cam, k)] for k in some]
            above = ["cell", "mean map", "Grad-CAM,\ninfected"]
            drawing.rows(tiles, [caption(k) for k in some], above, folder / file)
            found.picture(
                number_,
                file,
                f"The {name}, cells it gets {what}, the surest, with the probability of infected: the mean "
                f"map of {layer} over the cell, and Grad-CAM for infected. Each has its own scale.",
            )


if __name__ == "__main__":
    from studies.__main__ import alone

    raise SystemExit(alone("evaluation"))
