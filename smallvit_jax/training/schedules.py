"""Schedules as float64 arrays with one entry per step.

They are inputs of the compiled program, so a longer run, another learning rate or a restart needs
no recompilation.
"""

import math
import warnings

import numpy as np


def cosine(
    base: float, final: float, total_steps: int, warmup_steps: int = 0, start: float = 0.0
) -> np.ndarray:
    """DINO's schedule: linear warmup from `start` to `base`, then a cosine toward `final`.

    The warmup includes its end point, so `base` is used twice, and the cosine never quite reaches
    `final` (reference: utils/utils_ssl.py:223-234).
    """
    _check_room(total_steps, warmup_steps)
    warmup = np.linspace(start, base, warmup_steps)
    rest = total_steps - warmup_steps
    fall = 0.5 * (1 + np.cos(np.pi * np.arange(rest) / rest))
    return np.concatenate([warmup, final + (base - final) * fall])


def warmup_cosine(
    base: float, minimum: float, total_steps: int, warmup_steps: int = 0
) -> np.ndarray:
    """Fine-tuning's schedule: linear warmup from `minimum` to `base` at step `warmup_steps`, then a
    cosine back to `minimum` (reference: utils/scheduler.py, one cycle)."""
    _check_room(total_steps, warmup_steps)
    step = np.arange(total_steps)
    rise = step / max(warmup_steps, 1)
    fall = 0.5 * (1 + np.cos(np.pi * (step - warmup_steps) / (total_steps - warmup_steps)))
    return minimum + (base - minimum) * np.where(step < warmup_steps, rise, fall)


def teacher_temperature(
    warmup: float, final: float, warmup_epochs: int, epochs: int, steps_per_epoch: int
) -> np.ndarray:
    """Teacher temperature: linear warmup over `warmup_epochs`, constant within each epoch
    (reference: train_ssl.py:478-483)."""
    rise = np.linspace(warmup, final, warmup_epochs)[:epochs]
    by_epoch = np.concatenate([rise, np.full(epochs - len(rise), final)])
    return np.repeat(by_epoch, steps_per_epoch)


def fit_warmup(warmup_epochs: float, epochs: int, field: str, *, whole: bool = False) -> float:
    """Returns the warmup in epochs, but at most a third of the run.

    Warns if it is shortened, naming `field`; the reference fails an assertion if the warmup is
    longer than the run. `whole` rounds up to whole epochs.
    """
    longest = math.ceil(epochs / 3) if whole else epochs / 3
    if warmup_epochs <= longest:
        return warmup_epochs
    warnings.warn(
        f"{epochs} epochs are too few for {field} = {warmup_epochs}; using {longest:.3g}, a third "
        f"of them{' rounded up' if whole else ''}",
        stacklevel=2,
    )
    return longest


def _check_room(total_steps: int, warmup_steps: int) -> None:
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"{warmup_steps} warmup steps do not fit into {total_steps} steps")
