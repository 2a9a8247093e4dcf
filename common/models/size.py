"""How many weights a study's network has, without building it (and without torch)."""

from __future__ import annotations

from common.study import NEIGHBOURS, Study

# Weights but those of the head, for three input channels; those of the norms; features that the head takes. torchvision's ResNets,
# He et al. 2016, table 1; GroupNorm has as many as BatchNorm. A test compares them with the networks.
_TRUNK = {
    "plain18": (11_002_688, 7_808, 512),
    "resnet18": (11_176_512, 9_600, 512),
    "resnet34": (21_284_672, 17_024, 512),
    "resnet50": (23_508_032, 53_120, 2048),
}
_FIRST_LAYER = 64 * 7 * 7  # weights for each input channel
_ATTENTION = _STATE = 128  # widths in common.models.pooling


def parameter_count(study: Study) -> int:
    """Weights of the network, trained or not."""
    trunk, _, features = _TRUNK[study.model.name]
    first = (study.input.channels - NEIGHBOURS) * _FIRST_LAYER
    return trunk + _constants(features) + first + _head(study, features)


def shared_count(study: Study) -> int:
    """Weights that are in every message, down and up: those that are trained and don't stay at the site."""
    _, norms, features = _TRUNK[study.model.name]
    head = _head(study, features)
    trained = {"all": parameter_count(study) - _constants(features), "norm+head": norms + head, "head": head}
    return trained[study.model.trainable] - {"none": 0, "norm": norms, "head": head}[study.model.local]


def first_message_bytes(study: Study) -> int:
    """Bytes of weights of the first message to a site; the base is always float32."""
    return 4 * (parameter_count(study) - shared_count(study)) + later_message_bytes(study)


def later_message_bytes(study: Study) -> int:
    """Bytes of weights of each later message to a site, SCAFFOLD's correction aside, and of each update."""
    return shared_count(study) * {"float32": 4, "float16": 2}[study.federation.wire]


def _head(study: Study, features: int) -> int:
    """Of the last layer, with what pools views before it (common.models.pooling)."""
    classes = len(study.task.classes)
    if study.model.pooling == "gru":
        return 3 * _STATE * (features + _STATE + 2) + classes * (_STATE + 1)
    return _ATTENTION * (features + 2) * (study.model.pooling == "attention") + classes * (features + 1)


def _constants(features: int) -> int:
    """Of PublicPool (common.models.resnet): a centre, and a matrix that whitens."""
    return features + features**2
