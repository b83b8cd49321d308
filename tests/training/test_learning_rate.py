"""The learning rate of each step, by hand: a rate of 0.5 and ten steps, two of them warm-up."""

from typing import Any

import pytest

from pipeline.experiment.params import Training
from pipeline.training.learning_rate import learning_rate

BASE: dict[str, Any] = {
    "seeds": [1],
    "epochs": 1, "batch_images": 1, "micro_batch": 0, "optimizer": "adam", "lr": 0.5, "weight_decay": 0.0, "momentum": 0.0,
    "schedule": "constant", "warmup_steps": 2, "plateau_factor": 0.8, "plateau_patience": 2, "clip": "none", "clip_at": 1.0,
    "label_smoothing": 0.0, "precision": "float32", "select": "loss", "patience": 1, "min_count": 1,
    "scheduled_sampling": "none", "sampling_end": 0.0, "sampling_k": 1.0,
    "self_critical_epochs": 0, "self_critical_lr": 0.1, "self_critical_samples": 1,
    "vocabulary_splits": ["train"],
}  # fmt: skip


def rates(total: int = 10, plateau_scale: float = 1.0, **changes: Any) -> list[float]:
    options = Training(**{**BASE, **changes})
    return [learning_rate(options, step, total, plateau_scale) for step in range(total)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]),
        ("linear", [0.25, 0.5, 0.5, 0.4375, 0.375, 0.3125, 0.25, 0.1875, 0.125, 0.0625]),
        (
            "cosine",
            [
                0.25,
                0.5,
                0.5,
                0.4809698831,
                0.4267766953,
                0.3456708581,
                0.25,
                0.1543291419,
                0.0732233047,
                0.0190301169,
            ],
        ),
        ("plateau", [0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]),
    ],
)
def test_the_rate_of_every_step(schedule: str, expected: list[float]) -> None:
    assert rates(schedule=schedule) == pytest.approx(expected, abs=1e-10)


def test_warm_up_rises_in_equal_parts_to_the_full_rate() -> None:
    assert rates(6, schedule="cosine", warmup_steps=5)[:5] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5]
    )


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "plateau"])
def test_without_warm_up_the_first_step_has_the_full_rate(schedule: str) -> None:
    assert rates(schedule=schedule, warmup_steps=0)[0] == 0.5


def test_the_plateau_scale_counts_after_warm_up_only() -> None:
    assert rates(4, plateau_scale=0.64, schedule="plateau") == pytest.approx(
        [0.25, 0.5, 0.32, 0.32]
    )


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_other_schedules_know_no_plateau_scale(schedule: str) -> None:
    assert rates(plateau_scale=0.64, schedule=schedule) == rates(schedule=schedule)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_training_shorter_than_its_warm_up_never_divides_by_zero(schedule: str) -> None:
    assert rates(2, schedule=schedule, warmup_steps=50) == pytest.approx([0.01, 0.02])
    assert rates(1, schedule=schedule, warmup_steps=1) == [0.5]
