#!/usr/bin/env bash
# scikit-learn 1.9.1, numpy 2.4.6, scipy 1.17.1, Python 3.11 (Linux x86-64).
#
# One would guess: PCA centres its data first, so a constant added to all of it changes nothing but the mean; the docstring of the
# solver that `auto` picks for ten times as many rows as columns says "(on centered data)".
# Seen: that solver takes the mean off the squares instead, in the dtype of the data. Of float32 around 1,000 with a spread of 1
# in all of 16 directions alike, the first component explains 43 % of the variance; of the same data centred by hand, or by the
# full decomposition, 7 %. Around 100 the second digit is wrong. Nothing is warned of.
#
# Output seen:
#   float32 around 0: covariance_eigh 0.0731, full 0.0731, centred by hand 0.0731, of float64 0.0731
#   float32 around 100: covariance_eigh 0.0746, full 0.0731, centred by hand 0.0731, of float64 0.0731
#   float32 around 1000: covariance_eigh 0.4288, full 0.0731, centred by hand 0.0731, of float64 0.0731
#   float32 around 10000: covariance_eigh 0.8506, full 0.0731, centred by hand 0.0731, of float64 0.0731
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - 2>warnings.txt <<'PYTHON' || { tail -3 warnings.txt; echo "this has changed"; exit 1; }
import sys
import warnings

import numpy as np
from sklearn.decomposition import PCA

warnings.simplefilter("error")
spread = np.random.default_rng(0).normal(size=(2000, 16))


def fit(vectors, solver="auto"):
    fitted = PCA(2, svd_solver=solver).fit(vectors)
    return fitted._fit_svd_solver, float(fitted.explained_variance_ratio_[0])


found = {}
for around in (0, 100, 1_000, 10_000):
    vectors = (around + spread).astype(np.float32)
    solver, explained = fit(vectors)
    _, full = fit(vectors, "full")
    _, centred = fit(vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32))
    _, double = fit(vectors.astype(np.float64))
    found[around] = (solver, explained, full, centred, double)
    print(
        f"float32 around {around}: {solver} {explained:.4f}, full {full:.4f}, centred by hand {centred:.4f}, "
        f"of float64 {double:.4f}"
    )
solvers = {one[0] for one in found.values()}
rest = [share for one in found.values() for share in one[2:]]
sys.exit(
    not (
        solvers == {"covariance_eigh"}
        and max(rest) - min(rest) < 1e-3
        and abs(found[0][1] - rest[0]) < 1e-3
        and found[1_000][1] > 2 * rest[0]
        and found[10_000][1] > 2 * rest[0]
    )
)
PYTHON
