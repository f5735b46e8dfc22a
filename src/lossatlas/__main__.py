"""`python -m lossatlas` is the command `lossatlas`."""

from lossatlas.cli.app import main

main()
