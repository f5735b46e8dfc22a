"""The instruments that a survey can be asked for, one line each."""

from lossatlas.arguments import guard_exports
from lossatlas.surveys.instruments.registry import INSTRUMENTS, Instrument, chosen, named

__all__ = ["INSTRUMENTS", "Instrument", "chosen", "named"]

guard_exports(__name__)
