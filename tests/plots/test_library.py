"""The library of a page: smaller, and whole where it reads otherwise."""

import base64
import gzip

import pytest

from lossatlas.plots import library

BUNDLE = (
    "/* license */var Plotly=(()=>{var W=(e,t)=>()=>t;function help(){return`}${W}{`}"
    'var core=W((e,t)=>{help();t.exports={a:"}",b:/[}/]/}});'
    'var surf=W((e,t)=>{var c=core();t.exports={moduleType:"trace",name:"surface"}});'
    "var s=W((e,t)=>{t.exports=surf()});"
    'var heavy=W((e,t)=>{t.exports={moduleType:"trace",name:"map",big:tiles()}});'
    "var tiles=W((e,t)=>{t.exports=[1,2,3]});"
    "var end=W((e,t)=>{var r=core();r.register([s(),heavy()]);t.exports=r});"
    "return end();})();window.Plotly = Plotly;"
)


def test_only_what_the_kept_traces_reach_stays():
    small = library.reduced(BUNDLE, frozenset({"surface"}))
    assert "register([s()])" in small
    assert "heavy" not in small
    assert "tiles" not in small
    for part in ("/* license */", "core=W", "surf=W", "return end();", "window.Plotly"):
        assert part in small
    assert library.reduced(BUNDLE, frozenset({"surface", "map"})) == BUNDLE


@pytest.mark.parametrize("source", ["", "var x=1;", BUNDLE.replace("register", "enter")])
def test_a_bundle_of_another_form_is_left_whole(source):
    assert library.reduced(source) == ""
    assert library.reduced(BUNDLE) == ""


def test_the_library_of_a_page_is_small_and_keeps_its_license():
    data = base64.b64decode(library.packed_library())
    assert len(data) < 0.8e6
    text = gzip.decompress(data).decode()
    assert "Licensed under the MIT license" in text
    assert text.count('moduleType:"trace"') == len(library.KEPT) + 1
