"""Draw the landing page's picture: `python book/assets/make_pictures.py` writes
assets/pictures/lift.webp.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from hkd_mini.koopman import flows, systems

HERE = Path(__file__).parent


def starts(count: int) -> np.ndarray:
    """States around the frame, above and below the slow manifold."""
    x1 = np.linspace(-2, 2, count)
    above = np.stack([x1, np.where(abs(x1) > 1.75, 7.0, 7.2)], -1)
    return np.concatenate([above, np.stack([x1, np.full(count, -2.4)], -1)])


def draw_plane(ax, paths, bend) -> None:
    """The nonlinear flow in its own coordinates."""
    for k, path in enumerate(np.moveaxis(paths, 1, 0)):
        ax.plot(*path.T, color="C0", lw=1.3, alpha=0.45 + 0.4 * (k % 2))
    ax.plot(bend, 1.25 * bend**2, color="C1", lw=4, zorder=5)
    ax.set(
        xlim=(-2.15, 2.15),
        ylim=(-2.6, 7.4),
        xticks=(),
        yticks=(),
        xlabel="$x_1$",
        ylabel="$x_2$",
    )
    ax.set_title("a curved flow …", fontsize=15, loc="center")


def draw_lift(ax, lifted, bend) -> None:
    """The same flow on its sheet in three dimensions, and the plane that holds the slow
    manifold.
    """
    x1, x2 = np.meshgrid(np.linspace(-2.0, 2.0, 41), np.linspace(-2.4, 7.2, 13))
    ax.plot_surface(x1, x2, x1**2, color="C5", alpha=0.13, lw=0)
    ax.plot_wireframe(
        x1, x2, x1**2, color="C5", alpha=0.2, lw=0.5, rstride=3, cstride=5
    )
    corner = np.array(
        [[-2.0, 0.0, 0.0], [2.0, 0.0, 0.0], [2.0, 5.0, 4.0], [-2.0, 5.0, 4.0]]
    ).reshape(2, 2, 3)
    # x_2 = 1.25 z_3: the slow manifold's plane
    flat = np.stack([corner[0], corner[1, ::-1]])
    ax.plot_surface(*np.moveaxis(flat, -1, 0), color="C1", alpha=0.16, lw=0)
    for k, path in enumerate(np.moveaxis(lifted, 1, 0)):
        ax.plot(*path.T, color="C0", lw=1.3, alpha=0.45 + 0.4 * (k % 2))
    ax.plot(bend, 1.25 * bend**2, bend**2, color="C1", lw=4)
    ax.set(
        xticks=(),
        yticks=(),
        zticks=(),
        xlabel="$x_1$",
        ylabel="$x_2$",
        zlabel="$x_1^2$",
    )
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.labelpad = -10
        axis.pane.set_alpha(0)
    ax.set_box_aspect((5, 5, 4), zoom=1.18)
    ax.view_init(elev=27, azim=-66)
    ax.set_title("… is a linear one, lifted", fontsize=15, loc="center")


def main() -> None:
    plt.style.use(HERE / "book.mplstyle")
    slow = systems.slow_manifold(mu=-0.1, lam=-1.0)
    paths = flows.trajectory(
        slow, starts(13), np.append(0, np.geomspace(0.01, 60, 240))
    )
    bend = np.linspace(-2, 2, 121)
    fig = plt.figure(figsize=(9.6, 4.3))
    draw_plane(fig.add_subplot(1, 2, 1), paths, bend)
    draw_lift(
        fig.add_subplot(1, 2, 2, projection="3d", computed_zorder=False),
        slow.lift(paths),
        bend,
    )
    webp = {"quality": 90, "method": 6}
    fig.savefig(HERE / "pictures" / "lift.webp", dpi=160, pil_kwargs=webp)


if __name__ == "__main__":
    main()
