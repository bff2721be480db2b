"""The pieces of tools/docs.py: equations, links, signatures. The whole site is visited in tests/browser."""

import ast
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
docs = pytest.importorskip("docs", reason="the packages of the extra dev are not installed")
from mathml import Broken, equation

SITE = docs.Site(
    {"nbs/05_lgssm.ipynb": "11_lgssm"},
    {"kalman_filter": "api_lgssm.html#kalman_filter"},
    "https://example.org/repo",
    {},
)


@pytest.mark.parametrize(
    "latex, parts",
    [
        (r"\mathbb E_q[\log p(x)]", ["𝔼", 'log</mi><mspace width="0.167em" /><mi>p']),
        (r"\mathcal N(\mu, \Sigma)", ["𝒩", "μ"]),
        (r"\Big\Vert a\Big\|", ["‖"]),
        (r"\texttt{log\_prior}", ["log_prior"]),
        (r"\begin{aligned} a &= b \\ c &= d \end{aligned}", ["mtable", "mtr"]),
    ],
)
def test_an_equation_is_what_it_says(latex, parts):
    for html in (equation(latex), equation(latex, block=True)):
        assert all(p in html for p in parts) and "\\" not in html and 'mathvariant="double' not in html


@pytest.mark.parametrize("latex", [r"\nosuchcommand x", r"\Big\nosuchfence x", "a & b"])
def test_what_would_appear_as_text_stops_the_build(latex):
    with pytest.raises(Broken):
        equation(latex)


def test_the_number_of_an_equation_stands_beside_it():
    assert equation(r"a = b \tag{3}", block=True).endswith('<span class="tag">(3)</span></div>')


def test_a_long_inline_equation_may_break():
    assert "<wbr>" in equation(r"a + b + c + d + e = f, g = h") and "<wbr>" not in equation("a + b")


def test_links_lead_to_pages_files_and_names():
    html = docs.markdown(
        "[a](05_lgssm.ipynb#The-filter) [b](../setup.py) [c](https://x.org/y) `kalman_filter`", SITE, "nbs/index.ipynb"
    )
    for target in (
        "11_lgssm.html#The-filter",
        "https://example.org/repo/blob/main/setup.py",
        "https://x.org/y",
        "api_lgssm.html#kalman_filter",
    ):
        assert f'href="{target}"' in html
    with pytest.raises(Broken):
        docs.markdown("[a](12_nowhere.ipynb)", SITE, "nbs/index.ipynb")


def test_signatures_keep_their_comments():
    source = 'def f(\n    x: int,  # a number\n    *,\n    y: str = "#",  # a text\n) -> bool:\n    "Whether."\n'
    rows = docs.arguments(ast.parse(source).body[0], docs.comments(source))
    assert [(n, text) for n, _, _, text in rows] == [("x", "a number"), ("y", "a text"), ("returns", "")]
    fields = 'class C:\n    a: int = 1\n    "first"\n    b: int = 2  # second\n'
    assert [(n, text) for n, _, _, text in docs.attributes(ast.parse(fields).body[0], docs.comments(fields))] == [
        ("a", "first"),
        ("b", "second"),
    ]
