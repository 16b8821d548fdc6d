"""How much the closed form saves: e^{A dt} z by blocks, beside torch.matrix_exp and a
batched product.

    python benchmarks/evolve.py

One state of (64, 128, 32, 32): 64 samples, 128 channels, one generator at each of 1024
locations. The general way takes the exponential of 1024 matrices of 128 x 128, then
multiplies; the closed form knows that they are 2x2 blocks. Both get the same scalar dt,
which favours the general way (with one dt per sample it would need 65,536
exponentials), both write into memory they hold, and both run on one thread in this
process, without gradients: medians after a warm-up, in seconds of that thread's own, so
that a machine busy with something else does not decide. The closed form moves each
number a few times and computes little, so its speed is set beside that of a plain copy.
The last line is the ratio of the two medians.
"""

import statistics
import time

import torch

from hkd_mini.koopman.generator import KoopmanGenerator

B = 64
D = 128
H = 32
W = 32
DT = -1.0  # from noise to picture in the default clock


def median(call, repeats: int) -> float:
    """Median seconds of this thread that a call takes, after one that does not
    count.
    """
    call()
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        call()
        times.append(time.thread_time() - began)
    return statistics.median(times)


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    generator = KoopmanGenerator(D, H, W)
    generator.A.copy_(torch.randn(generator.A.shape, generator=rng))
    z = torch.randn(B, D, H, W, generator=rng)
    dts = torch.full((B,), DT)
    dense = generator.dense().view(H * W, D, D)
    columns = (
        z.flatten(2).permute(2, 1, 0).contiguous()
    )  # (locations, d, batch): the layout that suits a batched product
    product = torch.empty_like(columns)
    out = torch.empty_like(z)

    def general() -> torch.Tensor:
        return torch.bmm(torch.matrix_exp(dense * DT), columns, out=product)

    wish = general().permute(2, 1, 0).view(z.shape)
    for dt in (DT, dts):
        gap = (generator(z, dt, out=out) - wish).norm() / wish.norm()
        worst = (out - wish).abs().max() / wish.abs().max()
        assert gap < 1e-5 and worst < 1e-5, (
            f"the two disagree by {gap:.1e} (norm), {worst:.1e} (largest)"
        )
    print(
        f"states {tuple(z.shape)} float32, A ~ N(0, 1) at {H} x {W} locations, dt = "
        f"{DT}"
    )
    print(f"one thread, torch {torch.__version__}")
    print(
        f"same result: relative difference {gap:.1e} in norm, {worst:.1e} of the "
        "largest number"
    )

    slow = median(general, 3)
    alone = median(lambda: torch.matrix_exp(dense * DT), 3)
    print(
        f"matrix_exp and batched product  {slow * 1e3:9.2f} ms   (the exponentials "
        f"alone {alone * 1e3:.2f} ms)"
    )
    # read once, write once: what any evolution must do
    moved = 2 * z.numel() * z.element_size()

    def row(name: str, seconds: float, remark: str = "") -> None:
        print(
            f"{name:<31} {seconds * 1e3:9.2f} ms   "
            f"{moved / seconds / 1e9:7.2f} GB/s   {remark}".rstrip()
        )

    fast = median(lambda: generator(z, DT, out=out), 15)
    row("closed form", fast)
    row("plain copy", median(lambda: out.copy_(z), 15))
    print("into new memory, as in a single call:")
    fresh = median(lambda: generator(z, DT), 15)
    row("closed form", fresh, f"ratio {slow / fresh:.0f}")
    row("plain copy", median(z.clone, 15))
    print(f"one dt per sample ({B} times the exponentials, the general way):")
    row("closed form", median(lambda: generator(z, dts, out=out), 5))
    print(f"ratio {slow / fast:.0f}")


if __name__ == "__main__":
    main()
