"""What pictures are judged by: a fixed network's features, and distances between them.

`classifier` is the network that looks, `distance` compares two pictures (students are
trained through it), `features` and `metrics` compare two sets of them. Who judges
should not have taught: of the three bundled classifiers one is looked through in
training, one judges, and a second judge is seen by no training. Start with
`metrics.frechet_distance`. Chapters: 10 and 11.
"""

from .classifier import Classifier, ClassifierConfig, share_found, train_classifier
from .distance import Distance, FeatureDistance, TextureDistance
from .features import classifier_features, imagenet_features, inception_features
from .metrics import Statistics, frechet_distance, precision_recall, statistics

__all__ = [
    "Classifier",
    "ClassifierConfig",
    "Distance",
    "FeatureDistance",
    "Statistics",
    "TextureDistance",
    "classifier_features",
    "frechet_distance",
    "imagenet_features",
    "inception_features",
    "precision_recall",
    "share_found",
    "statistics",
    "train_classifier",
]
