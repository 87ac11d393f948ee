"""tinynet features: classify cells by what a layer of a trained network says of them.

The network stays as it is, an autoencoder's encoder for example; nearest neighbours or a linear
support-vector machine learn from its features of the training part, and are measured on the validation and
the test part of the same division that the network was trained with.  Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tinynet.cli.options import add_data, add_exclude, add_json, add_model
from tinynet.cli.output import float_model, metric_lines, print_notice, print_result

SUMMARY = "classify cells by a layer's features: nearest neighbours, or a support-vector machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_model(parser)
    add_data(parser)
    add_exclude(parser)
    parser.add_argument(
        "--layer",
        action="append",
        metavar="NAME",
        help="whose features; several, given one by one, are joined; default: the narrowest of the network; "
        "residual: what an autoencoder does not reconstruct",
    )
    parser.add_argument(
        "--pool",
        action="store_true",
        help="take each channel's quantiles over the image instead of its value at each place",
    )
    parser.add_argument("--classifier", choices=("knn", "svm"), default="knn", help="default: knn")
    parser.add_argument("--neighbours", type=int, default=15, help="of knn; default: 15")
    parser.add_argument("--penalty", type=float, default=0.01, metavar="C", help="of svm; default: 0.01")
    parser.add_argument("--split", choices=("patient", "image"), help="where the file does not say it")
    parser.add_argument("--seed", type=int, help="where the file does not say it")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    import tinynet
    from tinynet.errors import ArgumentError
    from tinynet.features import FeatureClassifier
    from tinynet.runs.data import takes_square_pictures
    from tinynet.runs.feature_study import study

    classifier = FeatureClassifier(arguments.classifier, arguments.neighbours, arguments.penalty)
    model = float_model(tinynet.load(arguments.model), arguments.model)
    if not takes_square_pictures(model):
        raise ArgumentError(f"{arguments.model} does not take square RGB pictures")
    found = study(
        model,
        arguments.model,
        arguments.data,
        arguments.exclude,
        layers=arguments.layer or (),
        pooled=arguments.pool,
        classifier=classifier,
        split=arguments.split,
        seed=arguments.seed,
        progress=sys.stderr.isatty(),
    )
    facts = {"model": arguments.model, "classifier": arguments.classifier, **found}
    print_result(arguments.json, facts, lambda: _table(facts))
    print_notice(arguments.json)
    return 0


def _table(facts: dict[str, Any]) -> list[str]:
    what = f"{facts['features']} {'pooled ' if facts['pooled'] else ''}features"
    lines = [
        f"{facts['classifier']} on {what} of {' and '.join(facts['layers'])}, "
        f"{facts['training']['n']} training cells"
    ]
    for part in ("validation", "test"):
        figures = facts[part]
        patients = f" of {figures['patients']} patients" if figures["patients"] else ""
        lines.append(f"{part}: {figures['n']} cells{patients}")
        lines += metric_lines(figures, ("accuracy", "sensitivity", "specificity", "auc"))
    if facts["split"] == "image":
        lines.append("optimistic: the split was by image, so cells of the same patients were trained on")
    return lines
