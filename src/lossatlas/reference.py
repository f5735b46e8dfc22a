"""References of methods."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """Reference for a method.

    Attributes:
        use: use of the method, such as "filter normalization".
        text: authors, title, venue, year.
        link: URL.
    """

    use: str
    text: str
    link: str
