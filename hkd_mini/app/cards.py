"""What was measured of a model, in the form in which the hub reads it from a card.

A card is the README.md beside the weights. Its first lines are metadata, and among
them may stand a `model-index`: numbers, what they are of, and the data that they were
measured on. `push_to_hub(..., results=...)` writes it for a new card,
`hub.with_results` into one that there is.
Chapter: 19 "Train on your own pictures".
Source: the hub's documentation of model cards (model-index).
"""

import pathlib
from typing import Any

from huggingface_hub import EvalResult

GENERATION = "unconditional-image-generation"
NAMES = {
    "frechet": ("frechet_distance", "Fréchet distance"),
    "precision": ("precision", "precision"),
    "recall": ("recall", "recall"),
}


def results(found: dict[str, Any], task: str = GENERATION) -> list[EvalResult]:
    """What `evaluation.evaluate` gave, `found`, as results of a card; `task` is the
    hub's word for what the model does.

    Each says how many samples it is of, and in which features. Folders are named by
    their last part alone. Raises ValueError for a dict that holds none of the numbers.
    """
    known = [key for key in NAMES if key in found]
    if not known:
        raise ValueError(
            f"found has {', '.join(map(str, found)) or 'nothing'}: wanted what "
            f"evaluate gives, {', '.join(NAMES)}"
        )
    reference = str(found["reference"])
    cifar = reference.startswith("CIFAR-10")
    features = pathlib.PurePath(str(found["features"])).name
    counts = {"n": found["n"], "n_real": found["n_real"], "features": features}
    return [
        EvalResult(
            task_type=task,
            dataset_type="cifar10" if cifar else "imagefolder",
            dataset_name="CIFAR-10" if cifar else pathlib.PurePath(reference).name,
            metric_type=NAMES[key][0],
            metric_name=f"{NAMES[key][1]}, {features} features, {found['n']} samples",
            metric_value=float(found[key]),
            metric_args=counts,
        )
        for key in known
    ]
