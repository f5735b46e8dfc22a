"""What the numbered scripts share: the published name of a flag becomes that of the command."""

import sys

from lossatlas.cli.app import main


def open_door(stage: str, flag: str, option: str) -> None:
    """Run one stage of `lossatlas inits` with the arguments of this process.

    Args:
        stage: as the command calls it.
        flag: as the published script calls its option.
        option: as the command calls it.
    """
    given = [_renamed(argument, flag, option) for argument in sys.argv[1:]]
    sys.argv = ["lossatlas", "inits", stage, *given]
    main()


def _renamed(argument: str, flag: str, option: str) -> str:
    name, equals, value = argument.partition("=")
    return option + equals + value if name == flag else argument
