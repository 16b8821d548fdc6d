"""The optimiser of a run: Adam, or Muon for the filters inside and Adam for the rest.

Adam moves every weight by itself. Muon moves a matrix as a whole: it replaces the
momentum of its gradient by the nearest matrix whose singular values are equal, so that
directions which the gradient hardly shows are learned too. A convolution is a matrix
too, of its outputs by all that each one reads. Chapter: 10 "Training".
Source: Kingma & Ba 2015 (Adam); Jordan et al. 2024 (Muon); torch.optim has both.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .config import TrainConfig

Groups = list[dict[str, Any]]


def optimizer_for(
    model: nn.Module, config: TrainConfig, groups: Groups | None, fused: bool
) -> torch.optim.Optimizer:
    """Adam for all trained weights of `model`, or with `config.muon` Muon for its
    filters inside.

    `groups` [{"params": list, "scale": factor on the learning rate}] default to one
    of all. `fused` as torch.optim.Adam takes it. Weights must have moved to their
    device and memory format before, since Muon looks at them as matrices.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = groups or [{"params": trained, "scale": 1.0}]
    rule: dict[str, Any] = {"weight_decay": config.weight_decay, "fused": fused}
    if not config.muon:
        return torch.optim.Adam(groups, config.lr, **rule)
    return AdamAndMuon(filters_inside(model), groups, config, rule)


def filters_inside(model: nn.Module) -> list[nn.Parameter]:
    """The weights of the convolutions of `model` but for those that read or write
    pictures (named `..._conv`), which Muon is not for.
    """
    return [
        p
        for name, p in model.named_parameters()
        if p.requires_grad and p.ndim == 4 and not name.endswith("_conv.weight")
    ]


class AdamAndMuon(torch.optim.Optimizer):
    """Two optimisers as one: torch's Muon for `filters`, its Adam, with `rule`, for
    what else there is in `groups`.

    A filter bank (c_out, c_in, h, w) is seen as the matrix (c_out, h w c_in), in its
    own memory: what Muon does to the one it does to the other. The learning rates are
    `config.muon` and `config.lr`. Raises ValueError for no filters, and for those that
    do not lie in memory as channels_last, which no matrix sees.
    """

    def __init__(
        self,
        filters: list[nn.Parameter],
        groups: Groups,
        config: TrainConfig,
        rule: dict[str, Any],
    ):
        if not filters:
            raise ValueError(
                f"muon = {config.muon}: this network has no convolutions for it; 0 "
                "trains it with Adam"
            )
        super().__init__(groups, {"lr": config.lr})
        apart = {id(p) for p in filters}
        rest = [
            g | {"params": [p for p in g["params"] if id(p) not in apart]}
            for g in groups
        ]
        self.filters = filters
        matrices = [nn.Parameter(as_matrix(p.detach())) for p in filters]
        self.adam = torch.optim.Adam(
            [g for g in rest if g["params"]], config.lr, **rule
        )
        self.muon = torch.optim.Muon(
            [{"params": matrices, "scale": config.muon / config.lr}],
            config.muon,
            weight_decay=config.weight_decay,
        )
        self.param_groups = [*self.adam.param_groups, *self.muon.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all weights."""
        self.adam.zero_grad(set_to_none)
        for p in self.filters:
            p.grad = None

    @torch.no_grad()
    def step(  # type: ignore[override]  # no closure
        self, closure: None = None
    ) -> None:
        """Move all weights that have a gradient, each by its own optimiser; there is no
        `closure`.
        """
        matrices = self.muon.param_groups[0]["params"]
        for p, matrix in zip(self.filters, matrices, strict=True):
            matrix.data = as_matrix(p.detach())  # data parallelism moves weights
            g = p.grad
            matrix.grad = None if g is None else g.permute(0, 2, 3, 1).flatten(1)
        self.adam.step()
        self.muon.step()

    def state_dict(self) -> dict[str, Any]:
        """The moments of both, Muon's weights counted after Adam's."""
        adam = self.adam.state_dict()
        muon = self.muon.state_dict()
        after = self._moved_by_adam
        state = adam["state"] | {i + after: s for i, s in muon["state"].items()}
        return {"state": state, "param_groups": self.param_groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up moments as `state_dict` gives them; learning rates stay."""
        after = self._moved_by_adam
        state = state_dict["state"]
        for part, mine in (
            (self.adam, {i: s for i, s in state.items() if i < after}),
            (self.muon, {i - after: s for i, s in state.items() if i >= after}),
        ):
            part.load_state_dict(part.state_dict() | {"state": mine})
        self.param_groups = [*self.adam.param_groups, *self.muon.param_groups]

    @property
    def _moved_by_adam(self) -> int:
        return sum(len(group["params"]) for group in self.adam.param_groups)


def as_matrix(filters: Tensor) -> Tensor:
    """The matrix (c_out, h w c_in) that filters (c_out, c_in, h, w) in the memory
    format channels_last are, as a view.
    """
    matrix = filters.permute(0, 2, 3, 1).flatten(1)
    if matrix.data_ptr() != filters.data_ptr():
        raise ValueError("filters that are not in channels_last: no matrix sees them")
    return matrix
