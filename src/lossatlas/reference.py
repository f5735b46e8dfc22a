"""Papers that methods come from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """A paper that a method comes from.

    Attributes:
        use: what it was used for, as in "filter normalization".
        text: authors, title, place, year.
        link: where to read it.
    """

    use: str
    text: str
    link: str
