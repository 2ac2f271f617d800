"""What a probe does with weak labels before a student sees them: filter, relabel, or predict in the student's place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlhf_e2h.studies.probes import disagreeing, fit_logistic, knn, topofilter

Floats = NDArray[np.floating]


@dataclass
class ProbeSettings:
    """Defaults: blog.eleuther.ai/weak-to-strong."""

    kind: Literal["none", "knn", "logistic", "topo"] = "none"
    use: Literal["filter", "relabel", "predict"] = "filter"
    k: int = 50  # neighbours, in all their uses
    l2: float = 1e-2  # logistic (the released code has 1e-3)
    share: float = 0.1  # filter: of all points, those that disagree most


@dataclass(frozen=True)
class Probed:
    """Labels to train on and which points to keep, with what there is to say about it."""

    labels: Floats  # (N,)
    kept: NDArray[np.bool_]  # (N,)
    about: dict[str, Any]


def probed(settings: ProbeSettings, x_ND: Floats, labels_N: Floats) -> Probed:
    """Filter or relabel weak labels by a probe that was fitted to those same labels."""
    everything_N = np.ones(len(labels_N), dtype=bool)
    if settings.kind == "none" or settings.use == "predict":
        return Probed(labels_N, everything_N, {})
    if settings.kind == "topo" and settings.use == "filter":
        result = topofilter(x_ND, labels_N, settings.share, settings.k, settings.k)
        about = {"by_component": result.by_component, "by_neighbours": result.by_neighbours}
        return Probed(labels_N, result.kept, {"removed": int((~result.kept).sum()), **about})
    own_N = probe_predictions(settings, x_ND, labels_N, x_ND)
    agree = {"agreement": float(((own_N > 0.5) == (labels_N > 0.5)).mean())}
    if settings.use == "relabel":
        return Probed(own_N, everything_N, agree)
    gone_N = disagreeing(labels_N, own_N, settings.share)
    return Probed(labels_N, ~gone_N, {"removed": int(gone_N.sum()), **agree})


def probe_predictions(settings: ProbeSettings, x_ND: Floats, labels_N: Floats, queries_MD: Floats) -> Floats:
    """P(right) of the queries (M,) by a probe fitted to (x, labels).

    The neighbour probes ask which training points are near; a training point counts itself, as upstream. "topo" asks
    only those that its component filter keeps.
    """
    if settings.kind == "logistic":
        return fit_logistic(x_ND, labels_N, settings.l2).predict(queries_MD)
    if settings.kind == "topo":
        kept_N = topofilter(x_ND, labels_N, 0.0, settings.k, settings.k).kept
        return knn(x_ND[kept_N], labels_N[kept_N], queries_MD, settings.k)
    return knn(x_ND, labels_N, queries_MD, settings.k)
