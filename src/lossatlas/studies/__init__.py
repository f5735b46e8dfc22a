"""Questions that need many trainings, answered with intervals."""
