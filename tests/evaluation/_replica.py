"""Replicas of all metrics as loops over voxels, written from the definitions, not the code."""

from __future__ import annotations

import math
from itertools import product
from math import nan

import numpy as np


def places(array):
    return list(product(*map(range, array.shape)))


def otsu(values):
    """The centre of the last bin of the lower class that parts 256 bins best; brute force."""
    low, high = min(values), max(values)
    width = (high - low) / 256
    counts = [0] * 256
    for value in values:
        counts[min(int((value - low) / width), 255)] += 1
    centres = [low + (number + 0.5) * width for number in range(256)]
    sums = [count * centre for count, centre in zip(counts, centres, strict=True)]
    best, chosen = -1.0, 0
    for last in range(255):
        n0, n1 = sum(counts[: last + 1]), sum(counts[last + 1 :])
        apart = sum(sums[: last + 1]) / n0 - sum(sums[last + 1 :]) / n1
        if n0 * n1 * apart**2 > best * (1 + 1e-12):
            best, chosen = n0 * n1 * apart**2, last
    return centres[chosen]


def stretched(a):
    low, high = a.min(), a.max()
    return {p: (a[p] - low) / (high - low) if high > low else 0.0 for p in places(a)}


def region(a, threshold):
    if a.min() == a.max():
        return set()
    hat = stretched(a)
    tau = otsu(list(hat.values())) if threshold == "otsu" else threshold
    return {p for p in hat if hat[p] >= tau}


def truth(m):
    return {p for p in places(m) if m[p]}


def distance(p, q, spacing):
    return math.sqrt(sum(((i - j) * s) ** 2 for i, j, s in zip(p, q, spacing, strict=True)))


def edge(points, shape):
    """Points with a face neighbour that is none of them, along an axis of more than one voxel."""
    kept = []
    for p in points:
        for axis, size in enumerate(shape):
            steps = [(*p[:axis], p[axis] + step, *p[axis + 1 :]) for step in (-1, 1)]
            if size > 1 and any(neighbour not in points for neighbour in steps):
                kept.append(p)
                break
    return kept


def surface(a, m, threshold, spacing):
    region_edge, mask_edge = edge(region(a, threshold), a.shape), edge(truth(m), a.shape)
    from_region = [min(distance(p, q, spacing) for q in mask_edge) for p in region_edge]
    from_mask = [min(distance(p, q, spacing) for p in region_edge) for q in mask_edge]
    return from_region, from_mask


def percentile95(values):
    values = sorted(values)
    at = 0.95 * (len(values) - 1)
    below = math.floor(at)
    above = min(below + 1, len(values) - 1)
    return values[below] + (at - below) * (values[above] - values[below])


def wioa(a, m, threshold, **_):
    hat, b = stretched(a), region(a, threshold)
    if not b or not truth(m):
        return nan
    return sum(hat[p] for p in b & truth(m)) / sum(hat[p] for p in b)


def ioa(a, m, threshold, **_):
    b = region(a, threshold)
    return len(b & truth(m)) / len(b) if b and truth(m) else nan


def iou(a, m, threshold, **_):
    b = region(a, threshold)
    return len(b & truth(m)) / len(b | truth(m)) if truth(m) else nan


def dice(a, m, threshold, **_):
    b = region(a, threshold)
    return 2 * len(b & truth(m)) / (len(b) + len(truth(m))) if truth(m) else nan


def wiou(a, m, **_):
    if not truth(m):
        return nan
    hat = stretched(a)
    shared = sum(min(hat[p], float(m[p])) for p in hat)
    return shared / sum(max(hat[p], float(m[p])) for p in hat)


def pointing_game(a, m, spacing, tolerance_mm, **_):
    if not truth(m) or a.min() == a.max():
        return nan
    peaks = [p for p in places(a) if a[p] == a.max()]
    hits = [min(distance(p, q, spacing) for q in truth(m)) <= tolerance_mm + 1e-9 for p in peaks]
    return sum(hits) / len(hits)


def relevance_mass(a, m, **_):
    if not truth(m) or a.min() == a.max():
        return nan
    return math.fsum(a[p] for p in truth(m)) / math.fsum(a.ravel())


def relevance_rank(a, m, **_):
    """Fills the |M| best places value by value; a tied value counts by its share in the mask."""
    left = len(truth(m))
    if not left or a.min() == a.max():
        return nan
    hits = 0.0
    for value in sorted(set(a.ravel().tolist()), reverse=True):
        tied = [p for p in places(a) if a[p] == value]
        taken = min(left, len(tied))
        hits += taken * sum(bool(m[p]) for p in tied) / len(tied)
        left -= taken
    return hits / len(truth(m))


def auroc(a, m, **_):
    inside = [a[p] for p in places(a) if m[p]]
    outside = [a[p] for p in places(a) if not m[p]]
    if not inside or not outside:
        return nan
    wins = sum((i > o) + 0.5 * (i == o) for i in inside for o in outside)
    return wins / (len(inside) * len(outside))


def average_precision(a, m, **_):
    if not truth(m):
        return nan
    score, recall = 0.0, 0.0
    for value in sorted(set(a.ravel().tolist()), reverse=True):
        called = {p for p in places(a) if a[p] >= value}
        hits = len(called & truth(m))
        score += (hits / len(truth(m)) - recall) * hits / len(called)
        recall = hits / len(truth(m))
    return score


def hd95(a, m, threshold, spacing, **_):
    if not region(a, threshold) or not truth(m):
        return nan
    return max(map(percentile95, surface(a, m, threshold, spacing)))


def assd(a, m, threshold, spacing, **_):
    if not region(a, threshold) or not truth(m):
        return nan
    from_region, from_mask = surface(a, m, threshold, spacing)
    return sum(from_region + from_mask) / len(from_region + from_mask)


def centroid_distance(a, m, threshold, spacing, **_):
    if not region(a, threshold) or not truth(m):
        return nan
    centres = [
        tuple(sum(p[axis] for p in points) / len(points) for axis in range(a.ndim))
        for points in (region(a, threshold), truth(m))
    ]
    return distance(*centres, spacing)


REPLICAS = {
    replica.__name__: replica
    for replica in (
        *(wioa, ioa, iou, wiou, dice, pointing_game, relevance_mass, relevance_rank),
        *(auroc, average_precision, hd95, assd, centroid_distance),
    )
}


def sample(rng, shape, *, kind):
    """A random map and mask: smooth values, or few distinct ones, which makes ties."""
    attention = rng.random(shape) if kind == "smooth" else rng.integers(0, 4, shape).astype(float)
    attention.flat[0], attention.flat[-1] = 0.0, 3.0  # never constant
    attention += 0.75  # nor zero at its lowest
    mask = rng.random(shape) < 0.3
    mask.flat[1] = True
    return attention, np.asarray(mask)
