"""Write what claims.json says of each bundled model into the metadata of its card,
where the Hugging Face hub reads it.

    python benchmarks/cards.py  # after benchmarks/claims.py; no model is run

A claim belongs to the card of the one model whose weights it names. The text of a card
is left as it is.
"""

import re

from common import stored
from huggingface_hub import EvalResult, ModelCard
from safetensors import safe_open

from hkd_mini.app.evaluation import REFERENCE
from hkd_mini.engine.hub import CARD, with_results
from hkd_mini.engine.weights import WEIGHTS, data_folder

DATA = data_folder()
# Which claims are metrics, and the hub's word for them; others are about how, not how
# well, and those of few samples are for tests.
METRICS = {
    r"accuracy-.*": "accuracy",
    r"frechet-.*-precision": "precision",
    r"frechet-.*-recall": "recall",
    r"frechet-(?!few|.*ratio).*": "frechet_distance",
    r"(hkd|paper|tiny)-end": "mse",
    r"judges-(teacher|hkd|paper)-(ours|second)": "frechet_distance",
    r"judges-(teacher|hkd|paper)-class-found": "accuracy",
    r"guided-frechet": "frechet_distance",
    r"guided-class-found": "accuracy",
}
TASKS = ("image-classification", "image-generation")


def metric(claim: str) -> str | None:
    """The hub's word for what a claim measures, None for what it has none for."""
    found = (word for name, word in METRICS.items() if re.fullmatch(name, claim))
    return next(found, None)


def dataset(word: str) -> dict[str, str]:
    """What a metric was measured on: type, name and split."""
    if word == "mse":
        ends = "32 noises that no training used, and where the teacher's paths end"
        return {"dataset_type": "teacher-paths", "dataset_name": ends}
    if word == "accuracy":
        return {"dataset_type": "cifar10", "dataset_name": "CIFAR-10"}
    with safe_open(DATA / REFERENCE, "np") as file:
        pictures = file.metadata()["pictures"]
    return {
        "dataset_type": "cifar10",
        "dataset_name": pictures,
        "dataset_split": "train",
    }


def results(name: str, card: ModelCard, claims: list[dict]) -> list[EvalResult]:
    """The claims about the bundled model `name` alone, as the hub has them."""
    tags = card.data.tags
    task = next(tag for tag in tags if tag.endswith(TASKS))
    return [
        EvalResult(
            task_type=task,
            metric_type=word,
            metric_name=claim["what"],
            metric_value=claim["value"],
            metric_args={"claim": claim["id"], "command": claim["command"]},
            **dataset(word),
        )
        for claim in claims
        if list(claim["weights"]) == [f"{name}/{WEIGHTS}"]
        and (word := metric(claim["id"]))
    ]


def written(name: str, claims: list[dict]) -> ModelCard:
    """The card of the bundled model `name` with what the claims say of it."""
    text = (DATA / name / CARD).read_text(encoding="utf-8")
    return with_results(text, name, results(name, ModelCard(text), claims))


def bundled() -> list[str]:
    """The names of the bundled models that have a card of their own."""
    return sorted(path.parent.name for path in DATA.glob(f"*/{WEIGHTS}"))


if __name__ == "__main__":
    claims = stored(DATA / "claims.json")
    for name in bundled():
        card = written(name, claims)
        (DATA / name / CARD).write_text(str(card), encoding="utf-8")
        print(f"{name}: {len(card.data.eval_results or [])} results")
