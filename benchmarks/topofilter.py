"""TopoFilter and kNN at the size of a large reward-model set: seconds, processor seconds and peak memory.

python benchmarks/topofilter.py [--points 50000] [--dims 512]
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from rlhf_e2h.studies.probes import knn, topofilter


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--points", type=int, default=50_000)
    arguments.add_argument("--dims", type=int, default=512)
    args = arguments.parse_args()
    rng = np.random.default_rng(0)
    truth_N = np.arange(args.points) % 2
    x_ND = rng.normal(size=(args.points, args.dims)).astype(np.float32)
    x_ND[:, 0] += 20 * truth_N  # as far apart as needed to matter among so many dimensions
    flipped_N = rng.random(args.points) < 0.1
    labels_N = np.where(flipped_N, 1 - truth_N, truth_N).astype(float)
    for name, run in (("knn", lambda: knn(x_ND, labels_N)), ("topofilter", lambda: topofilter(x_ND, labels_N))):
        wall, cpu = time.perf_counter(), time.process_time()
        result = run()
        took = f"{time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} processor seconds"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name}: {args.points} x {args.dims} in {took}, peak {peak:.2f} GiB")
        if name == "topofilter":
            removed_N = ~result.kept
            recall = (removed_N & flipped_N).sum() / flipped_N.sum()
            print(f"flips found {recall:.3f} with {removed_N.mean():.3f} of the points removed")


if __name__ == "__main__":
    main()
