"""The instruments that a survey can be asked for, one line each."""

from lossatlas.surveys.instruments.registry import INSTRUMENTS, Instrument, chosen, named

__all__ = ["INSTRUMENTS", "Instrument", "chosen", "named"]
