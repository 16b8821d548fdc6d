"""The models that `checkerboard.py` trains: one row each, the most important first."""

from typing import NamedTuple

LONG = 12_000  # iterations of the models that chapter 7 looks at


class Row(NamedTuple):
    """One model to train: what the loss asks, what the model may do, and a seed.

    `path`, `guess`, `linear` and `infinitesimal` are weights, `scale` and `follow` how
    linearity counts, `lr_A` is A's learning rate over that of the rest, `readout` and
    `rates` are `HKDConfig`'s, `later` asks for points nearer the picture alone.
    """

    objective: str
    path: float = 0.0
    linear: float = 0.0
    infinitesimal: float = 0.0
    follow: bool = True
    koopman: bool = True
    encoder_time: str = "sigma"
    clock: str = "rho"
    dimension: int = 64
    iterations: int = 3000
    seed: int = 0
    guess: float = 0.0
    scale: str = "size"
    lr_A: float = 1.0
    readout: str = "network"
    rates: float = 0.0
    later: bool = False


def grid() -> list[Row]:
    """All rows, the most important first."""
    three = range(3)
    paper = Row("paper")
    path = Row("path", path=1.0)
    linear = path._replace(objective="path+linear", linear=0.1)
    both = path._replace(
        objective="path+linear, both give way", linear=0.1, follow=False
    )
    full = linear._replace(objective="path+linear+infinitesimal", infinitesimal=0.001)
    still = [
        row._replace(koopman=False)
        for row in (paper, paper._replace(encoder_time="none"))
    ]
    return [
        paper._replace(objective="untrained", iterations=0),
        *(row._replace(seed=s) for s in three for row in (paper, path, linear, full)),
        *(row._replace(iterations=LONG) for row in (paper, full)),
        *(
            row._replace(seed=s)
            for row in (*still, paper._replace(encoder_time="none"))
            for s in three
        ),
        paper._replace(objective="linear", linear=0.1),
        paper._replace(objective="infinitesimal", infinitesimal=0.001),
        path._replace(koopman=False),
        *(both._replace(seed=s) for s in three),
        *(row._replace(linear=w) for w in (0.01, 1.0) for row in (linear, both)),
        *(row._replace(iterations=LONG) for row in (both, path)),
        *(row._replace(dimension=d) for d in (16, 256, 4) for row in (full, paper)),
        full._replace(encoder_time="none"),
        linear._replace(clock="edm"),
        *(linear._replace(linear=w) for w in (0.03, 0.3)),
        *(
            row._replace(iterations=LONG, seed=s)
            for s in (1, 2)
            for row in (paper, full)
        ),
        *guesses(),
        *(
            paper._replace(lr_A=rate, clock=clock, seed=s)
            for s in range(3)
            for rate in ((1.0, 5.0, 10.0, 20.0) if s == 0 else (1.0, 10.0))
            for clock in ("rho", "edm", "log")
            if (rate, clock) != (1.0, "rho")  # above
        ),
    ]


def guesses() -> list[Row]:
    """The rows that are asked for the teacher's guesses."""
    guess = Row("guess", guess=1.0, lr_A=10.0)
    linear = guess._replace(objective="guess+linear", linear=0.1, scale="variance")
    both = linear._replace(objective="guess+linear, both give way", follow=False)
    modes = guess._replace(
        objective="guess, linear read-out", readout="linear", rates=14.0, later=True
    )
    still = guess._replace(koopman=False)
    return [
        *(
            row._replace(seed=s)
            for s in range(3)
            for row in (guess, linear, both, modes, still)
        ),
        *(row._replace(iterations=LONG) for row in (guess, linear)),
        *(guess._replace(lr_A=rate, guess=w) for rate, w in ((1.0, 1.0), (10.0, 4.0))),
    ]
