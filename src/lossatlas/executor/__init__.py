"""Executors (this process, all cores, a cluster), and storage of finished work."""

from lossatlas.arguments import guard_exports
from lossatlas.executor.executors import (
    EXECUTORS,
    Executor,
    Joblib,
    Ray,
    Serial,
    Start,
    get_executor,
)
from lossatlas.executor.progress import Progress, check_progress, show_progress
from lossatlas.executor.tasks import run_tasks

__all__ = [
    "EXECUTORS",
    "Executor",
    "Joblib",
    "Progress",
    "Ray",
    "Serial",
    "Start",
    "check_progress",
    "get_executor",
    "run_tasks",
    "show_progress",
]

guard_exports(__name__)
