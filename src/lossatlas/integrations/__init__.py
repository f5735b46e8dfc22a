"""Other people's training loops. Each module imports its framework, and only when asked for."""
