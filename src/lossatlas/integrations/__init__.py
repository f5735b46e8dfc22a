"""Integrations of training frameworks. Each module imports its framework on demand."""
