"""Which initialization will train best: five stages, each resumable, scored honestly."""
