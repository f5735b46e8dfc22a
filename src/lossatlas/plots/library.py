"""The plotting library of a page: the parts that its figures use, packed for the browser."""

import base64
import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

# Kinds of traces that `lossatlas.plots.web` draws; scatter is part of the core.
KEPT = frozenset({"contour", "heatmap", "scatter3d", "surface"})
_BODY = re.compile(r"var Plotly=\(\(\)=>\{")
_REGISTER = re.compile(r"(\.register\(\[)([\w$]+\(\)(?:,[\w$]+\(\))+)\]\)")
_KIND = re.compile(r'moduleType:"(\w+)",name:"(\w+)"')
_FORWARD = re.compile(r"exports=([\w$]+)\(\)")
_NAME = re.compile(r"[A-Za-z_$][\w$]*")
# A module: its name is the only way into it, for whoever uses it calls that first.
_MODULE = re.compile(r"(?:^var |,)([\w$]+)=[\w$]+\($")
_DECLARED = re.compile(r"(?:^(?:var|let|const|class|(?:async )?function\*?) ?|,)([\w$]+)")
_EXPORTS = re.compile(r"^\s*[\w$]+\(([\w$]+),\{")
# Texts, comments and regular expressions may hold any bracket; they are skipped whole.
_TOKEN = re.compile(
    r'"(?:[^"\\\n]|\\.)*"'
    r"|'(?:[^'\\\n]|\\.)*'"
    r"|//[^\n]*|/\*.*?\*/"
    r"|(?:(?<=[(,=:\[!&|?{};+\-*%<>~^\n])|(?<=return)|(?<=typeof)|(?<=case))"
    r"/(?![*/])(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/"
    r"|[`(){}\[\];]",
    re.DOTALL,
)
_TEMPLATE = re.compile(r"(?:[^`\\$]|\\.|\$(?!\{))*(`|\$\{)", re.DOTALL)


@dataclass(frozen=True)
class _Statement:
    """A statement of the bundle, and the names that lead to it; none: it always runs."""

    text: str
    doors: tuple[str, ...]


@cache
def packed_library() -> str:
    """The library as base64 of gzip; the browser inflates it."""
    return base64.b64encode(gzip.compress(library().encode(), 9, mtime=0)).decode()


@cache
def library() -> str:
    """plotly.js without the traces that no figure uses; whole where it reads otherwise."""
    from plotly.offline import get_plotlyjs

    whole = str(get_plotlyjs())
    return reduced(whole) or whole


def reduced(source: str, kept: frozenset[str] = KEPT) -> str:
    """A bundle of plotly.js without the modules that only other kinds of traces reach.

    Args:
        source: the bundle, as esbuild writes it: modules in functions that run when called.
        kept: the kinds of traces to keep.

    Returns:
        The smaller bundle; empty where the source has another form.
    """
    opening, end = _BODY.search(source), source.rfind("})();")
    if opening is None or end < 0:
        return ""
    statements = list(_statements(source, opening.end(), end))
    by_name = {name: s for s in statements for name in s.doors}
    entry = next((s for s in statements if _REGISTER.search(s.text)), None)
    traces = {} if entry is None else _traces(entry, by_name)
    if entry is None or not kept <= set(traces.values()):
        return ""
    listed = ",".join(f"{name}()" for name, kind in traces.items() if kind in kept)
    text = _REGISTER.sub(lambda match: f"{match[1]}{listed}])", entry.text)
    small = _Statement(text, entry.doors)
    statements = [small if s is entry else s for s in statements]
    body = "".join(_reached(statements))
    return f"{source[: opening.end()]}{body}{source[end:]}"


def _traces(entry: _Statement, by_name: dict[str, _Statement]) -> dict[str, str]:
    # Factory of a trace -> its kind; factories hand on to the module that says it.
    match = _REGISTER.search(entry.text)
    assert match is not None
    return {
        call.removesuffix("()"): _kind(call.removesuffix("()"), by_name)
        for call in match[2].split(",")
    }


def _kind(name: str, by_name: dict[str, _Statement], steps: int = 3) -> str:
    text = by_name[name].text if name in by_name else ""
    says = _KIND.search(text)
    if says or not steps:
        return says[2] if says else ""
    forward = _FORWARD.search(text)
    return _kind(forward[1], by_name, steps - 1) if forward else ""


def _reached(statements: list[_Statement]) -> Iterator[str]:
    by_name: dict[str, list[int]] = {}
    for number, statement in enumerate(statements):
        for name in statement.doors:
            by_name.setdefault(name, []).append(number)
    waiting = [n for n, statement in enumerate(statements) if not statement.doors]
    reached = set(waiting)
    while waiting:
        for name in set(_NAME.findall(statements[waiting.pop()].text)):
            new = [n for n in by_name.get(name, ()) if n not in reached]
            reached.update(new)
            waiting += new
    return (statements[n].text for n in sorted(reached))


def _statements(source: str, start: int, end: int) -> Iterator[_Statement]:
    depth, begin, outside, surface = 0, start, start, ""
    for mark, at in _marks(source, start, end):
        if mark in "({[":
            surface += source[outside:at] if depth == 0 else ""
            depth += 1
        elif mark in ")}]":
            depth, outside = depth - 1, at
        if depth == 0 and (mark == ";" or (mark == "}" and _is_function(surface))):
            yield _Statement(source[begin:at], _doors(surface, source[begin:at]))
            begin, outside, surface = at, at, ""
    yield _Statement(source[begin:end], _doors(surface, source[begin:end]))


def _marks(source: str, at: int, end: int) -> Iterator[tuple[str, int]]:
    # Brackets and semicolons outside of texts, each with the place behind it. Within the
    # braces of a template is code again.
    depth = 0
    templates: list[int] = []
    while match := _TOKEN.search(source, at, end):
        mark, at = match[0], match.end()
        closes = mark == "}" and templates[-1:] == [depth]
        if mark == "`" or closes:
            del templates[len(templates) - closes :]
            text = _TEMPLATE.match(source, at, end)
            if text is None:
                return
            at = text.end()
            templates += [depth] if text[1] == "${" else []
        elif len(mark) == 1:
            depth += (mark in "({[") - (mark in ")}]")
            yield mark, at


def _is_function(surface: str) -> bool:
    return surface.startswith(("function", "async function"))


def _doors(surface: str, text: str) -> tuple[str, ...]:
    exports = _EXPORTS.match(text)
    if exports:
        return (exports[1],)
    module = _MODULE.search(surface)
    if module:
        return (module[1],)
    return tuple(_DECLARED.findall(surface)) if surface[:1].isalpha() else ()
