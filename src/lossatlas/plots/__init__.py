"""Drawing primitives on arrays: charts of layers, drawn by matplotlib or plotly.

This room knows no result; results make charts of their fields (`Result.figures`). The modules
are imported where a picture is made, so that a page needs no matplotlib.
"""
