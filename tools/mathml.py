"""Equations for a page without scripts: LaTeX as the notebooks write it, MathML as browsers draw it."""

import re
import unicodedata
from xml.etree import ElementTree

from latex2mathml.converter import convert

MATHML = "{http://www.w3.org/1998/Math/MathML}"
RENAMED = (
    (r"\\[lr]?Vert(?![a-z])|\\\|", "‖"),
    (r"\\arg(?![a-z])", r"\\operatorname{arg}"),
    (r"\{aligned\}", "{align*}"),
)  # what latex2mathml does not know
ALPHABETS = {
    "double-struck": "DOUBLE-STRUCK",
    "script": "SCRIPT",
    "bold": "BOLD",
    "fraktur": "FRAKTUR",
    "sans-serif": "SANS-SERIF",
}


class Broken(Exception):
    "What has to be mended before there can be a site."


def lettered(char, alphabet):
    "The character of this mathematical alphabet (browsers ignore `mathvariant`), or the same one if it has none."
    for prefix in ("MATHEMATICAL ", ""):
        try:
            return unicodedata.lookup(
                prefix + unicodedata.name(char).replace("LATIN", ALPHABETS[alphabet]).replace("LETTER ", "")
            )
        except (KeyError, ValueError):
            pass
    return char


def spaced(node):
    "A thin space between a function's name and what it is applied to, which MathML leaves out: log p, not logp."
    for k, (child, following) in reversed(list(enumerate(zip(node, node[1:])))):
        name = (
            child
            if child.tag == MATHML + "mi"
            else child[0]
            if len(child) and child.tag in (MATHML + "msub", MATHML + "msup")
            else node
        )
        if (
            name.tag == MATHML + "mi"
            and len(name.text or "") > 1
            and following.tag not in (MATHML + "mo", MATHML + "mspace")
        ):
            node.insert(k + 1, ElementTree.Element(MATHML + "mspace", width="0.167em"))


def broken_up(row):
    "The pieces of a long row, each ending with a relation, a comma or a plus: the places where a line may break."
    pieces = [[]]
    for child in row:
        pieces[-1].append(child)
        if child.tag == MATHML + "mo" and (child.text or "") in "=,;+−∼≈≤≥←→∝":
            child.set("form", "infix")
            pieces.append([])
    return [p for p in pieces if p]


def equation(latex, block=False):
    "MathML for an equation. Raises `Broken` for a command that would appear as text."
    tag = re.search(r"\\tag\{([^}]*)\}\s*$", latex.strip()) if block else None
    source = latex.strip()[: tag.start()] if tag else latex
    for old, new in RENAMED:
        source = re.sub(old, new, source)
    source = re.sub(r"\\texttt\{[^}]*\}", lambda m: m[0].replace(r"\_", "_"), source)
    try:
        tree = ElementTree.fromstring(convert(source, display="block" if block else "inline"))
    except Exception as error:
        raise Broken(f"the equation {latex!r} cannot be converted ({error!r})") from error
    for node in list(tree.iter()):
        kind = node.get("mathvariant")
        if kind in ALPHABETS:
            node.text = "".join(lettered(c, kind) for c in node.text or "")
            del node.attrib["mathvariant"]
        elif kind == "monospace":
            node.set("class", "mono")
        if "\\" in (node.text or "") or "$" in (node.text or ""):
            raise Broken(f"the equation {latex!r} would show {node.text!r} as text")
        spaced(node)
    ElementTree.register_namespace("", MATHML[1:-1])
    if block:
        number = f'<span class="tag">({tag[1]})</span>' if tag else ""
        return f'<div class="equation"><div class="scroll">{ElementTree.tostring(tree, encoding="unicode")}</div>{number}</div>'
    row = tree[0]
    pieces = broken_up(row) if row.tag == MATHML + "mrow" and len(row) > 8 else [list(row)]
    inside = (
        ("".join(ElementTree.tostring(c, encoding="unicode") for c in piece) for piece in pieces)
        if len(pieces) > 1
        else [ElementTree.tostring(row, encoding="unicode")]
    )
    return "<wbr>".join(f"<math><mrow>{piece}</mrow></math>" for piece in inside).replace(
        ' xmlns="http://www.w3.org/1998/Math/MathML"', ""
    )
