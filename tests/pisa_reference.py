"""PISA as a loop over (query, key, ray point) in float64: slow, and as the specification reads. One tile, numbers one by one.

Nothing of the fast form is imported but the table of places around a ray. Gradients flow through G and the logits, as there.
"""

import math

import numpy as np
import torch
from torch import Tensor

from pipeline.engines.bokehdiff.pisa import Defocus, Pisa, spread_offsets


def token_map(disparity: Tensor, rows: int, columns: int, pisa: Pisa) -> list[list[Tensor]]:
    """The map of one tile (H, W), resampled to a grid: cell means, or two pixels per axis around the middle of the cell."""
    height, width = disparity.shape

    def area(row: int, column: int) -> Tensor:
        top, bottom = row * height // rows, -(-(row + 1) * height // rows)
        left, right = column * width // columns, -(-(column + 1) * width // columns)
        return disparity[top:bottom, left:right].mean()

    def bilinear(row: int, column: int) -> Tensor:
        y, x = (max((at + 0.5) * side / n - 0.5, 0) for at, side, n in ((row, height, rows), (column, width, columns)))
        top, left = min(int(y), height - 1), min(int(x), width - 1)
        below, right = min(top + 1, height - 1), min(left + 1, width - 1)
        v, u = y - top, x - left
        return (1 - v) * ((1 - u) * disparity[top, left] + u * disparity[top, right]) + v * (
            (1 - u) * disparity[below, left] + u * disparity[below, right]
        )

    pick = area if pisa.resampling == "area" else bilinear
    return [[pick(row, column) for column in range(columns)] for row in range(rows)]


def sampled(fine: np.ndarray, row: float, column: float) -> float:
    """Bilinear at a position in cells of `fine`, 0 at the middle of the first; zero outside."""
    top, left = math.floor(row), math.floor(column)
    total = 0.0
    for y, weight_y in ((top, 1 - (row - top)), (top + 1, row - top)):
        for x, weight_x in ((left, 1 - (column - left)), (left + 1, column - left)):
            if 0 <= y < fine.shape[0] and 0 <= x < fine.shape[1]:
                total += weight_y * weight_x * fine[y, x]
    return total


def hidden(query: int, key: int, tokens: list[float], fine: np.ndarray, columns: int, pisa: Pisa) -> float:
    """O of one pair."""
    d_q, d_k = (min(tokens[number], 1 - 1e-3) for number in (query, key))
    (q_row, q_column), (k_row, k_column) = divmod(query, columns), divmod(key, columns)
    count = 0
    for d_row, d_column in spread_offsets(pisa.spread):
        any_point = False
        for p in np.linspace(0.1, 0.9, pisa.points):
            d_p = p * d_k + 1 - p
            bent = d_p if pisa.occlusion == "scatter" else p * d_q + 1 - p
            g = (1 - bent) * d_k / (bent * (1 - d_k))
            row, column = q_row + g * (k_row - q_row) + d_row, q_column + g * (k_column - q_column) + d_column
            any_point |= sampled(fine, (row + 0.5) * 3 - 0.5, (column + 0.5) * 3 - 0.5) > d_p
        count += any_point
    return count / pisa.spread


def distance(query: int, key: int, rows: int, columns: int, pisa: Pisa) -> float:
    """D of one pair, in units of 10 px."""
    places = []
    for number in (query, key):
        if pisa.index == "rows":
            places.append((number // columns, number % columns))
        else:
            places.append((number % rows, number // rows))
    (a, b), (c, d) = places
    if pisa.distance == "pixels":
        return 1.6 * math.hypot(a - c, b - d)
    return 51.2 * math.hypot((a - c) / max(rows - 1, 1), (b - d) / max(columns - 1, 1))


def attention(query: Tensor, key: Tensor, value: Tensor, defocus: Defocus, scale: float, pisa: Pisa) -> Tensor:
    """(N, T, E) float64 of one tile -> (N, T, E)."""
    height, width = defocus.disparity.shape[1:]
    rows, columns = height // 16, width // 16
    grid = [cell for row in token_map(defocus.disparity[0], rows, columns, pisa) for cell in row]
    finer = token_map(defocus.disparity[0].detach(), 3 * rows, 3 * columns, pisa)
    fine = np.array([[min(float(cell), 1 - 1e-3) for cell in row] for row in finer])
    plain = [float(cell.detach()) for cell in grid]
    out = []
    for head in range(len(query)):
        arriving = [torch.zeros_like(value[head, 0]) for _ in plain]
        for k in range(len(plain)):
            radius = ((grid[k] - defocus.focus).abs() * defocus.gain_px / 10).clamp(max=defocus.max_radius_px / 10)
            logits = [query[head, q] @ key[head, k] * scale for q in range(len(plain))]
            top = torch.stack(logits).max()
            light = [
                torch.exp(logits[q] - top)
                * torch.sigmoid(math.log(pisa.contrast) * (radius - distance(q, k, rows, columns, pisa)))
                for q in range(len(plain))
            ]
            total = sum(light) + 1e-12
            sent = [light[q] / total * (1 - hidden(q, k, plain, fine, columns, pisa)) for q in range(len(plain))]
            if pisa.renormalise:
                rest = sum(sent) + 1e-12
                sent = [one / rest for one in sent]
            for q, one in enumerate(sent):
                arriving[q] = arriving[q] + one * value[head, k]
        out.append(torch.stack(arriving))
    return torch.stack(out)
