"""Students: what one-step methods train. Each has `sample(noise, labels=None)`.

A `Student` is a denoiser that is asked once, at the first noise level. `Matched` adds a
second denoiser, of what the first one makes. The third kind, which has networks of its
own, is `kdm.KDM`. Chapter: 17 "One-step generation, side by side".
"""

import copy
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..diffusion.samplers import classes_told
from ..diffusion.schedule import Denoise, Noise, noise_of
from ..diffusion.teacher import Denoiser


def one_step(
    student: Denoise,
    noise: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch ..."]:
    """What the denoiser `student` makes of unit noise in one evaluation: D(sigma_max n;
    sigma_max). `labels` are class indices (batch,), or None.
    """
    sigma_max = noise_of(student).sigma_max
    told = () if labels is None else (labels,)
    return student(sigma_max * noise, sigma_max, *told)


class Student(Denoiser):
    """A denoiser whose guess at the first noise level is the picture."""

    @classmethod
    def of(cls, teacher: nn.Module) -> nn.Module:
        """A student that starts as a copy of its teacher, and a copy alone of a teacher
        that is not a `Denoiser`.
        """
        if not isinstance(teacher, Denoiser):
            return copy.deepcopy(teacher)
        student = cls(teacher.config)
        student.load_state_dict(teacher.state_dict())
        return student.train(teacher.training)

    @torch.no_grad()
    def sample(
        self,
        noise: Float[Tensor, "batch ..."],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch ..."]:
        """Pictures in [-1, 1], or points, from unit noise in one evaluation; `labels`
        (batch,) are class indices.
        """
        classes_told(self, labels)
        x = one_step(self, noise, labels)
        return x.clamp(-1, 1) if self.config.bounded else x


class Matched(nn.Module):
    """A generator, and a denoiser of what it makes: distribution matching trains both.
    Called with x, sigma, labels, it is the generator.
    """

    def __init__(self, generator: nn.Module):
        super().__init__()
        self.generator = generator
        self.fake = copy.deepcopy(generator)

    @classmethod
    def of(cls, teacher: nn.Module) -> "Matched":
        """Both start as copies of the teacher."""
        return cls(Student.of(teacher))

    @property
    def noise(self) -> Noise:
        """The generator's noise levels."""
        return noise_of(self.generator)

    def forward(
        self, x: Tensor, sigma: float | Tensor, labels: Tensor | None = None
    ) -> Tensor:
        return self.generator(x, sigma, labels)

    def sample(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """The generator's samples from unit noise, of classes `labels` (batch,)."""
        return cast(Student, self.generator).sample(noise, labels)
