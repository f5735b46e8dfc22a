"""The probe's points and indicators, one after another, by their definitions."""

import numpy as np


def indicators(losses):
    """Sharpness and variability of losses at (center, eight neighbors, others)."""
    center = losses[0]
    neighbors = losses[1:9]
    sharpness = (sum(neighbors) / 8 - center) / (center + 1e-8)
    variability = np.std(losses) / (np.mean(losses) + 1e-8)
    return sharpness, variability


def total_persistence(losses, edges):
    """Degree 0 by raising the water: a component dies into the one with the deeper bottom."""
    order = np.argsort(losses, kind="stable")
    component = {}
    bars = []
    for point in order:
        around = [b if a == point else a for a, b in edges if point in (a, b)]
        touched = {component[n] for n in around if n in component}
        if not touched:
            component[point] = point
            continue
        oldest = min(touched, key=lambda root: (losses[root], root))
        for root in touched - {oldest}:
            bars.append(losses[point] - losses[root])
            for member, its in list(component.items()):
                if its == root:
                    component[member] = oldest
        component[point] = oldest
    return sum(bars), [b for b in bars if b > 0]
