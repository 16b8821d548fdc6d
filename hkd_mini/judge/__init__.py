"""What pictures are judged by: a fixed network's features, and distances between them.

`classifier` is the network that looks, `distance` compares two pictures (students are
trained through it), `features` and `metrics` compare two sets of them. The first judge
is a relative of the network that students are trained through: compare with another one
where you can. Start with `metrics.frechet_distance`. Chapters: 10 and 11.
"""

from .classifier import Classifier, ClassifierConfig, train_classifier
from .distance import Distance, FeatureDistance
from .features import classifier_features, imagenet_features, inception_features
from .metrics import Statistics, frechet_distance, precision_recall, statistics

__all__ = [
    "Classifier",
    "ClassifierConfig",
    "Distance",
    "FeatureDistance",
    "Statistics",
    "classifier_features",
    "frechet_distance",
    "imagenet_features",
    "inception_features",
    "precision_recall",
    "statistics",
    "train_classifier",
]
