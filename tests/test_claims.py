"""README, index, the results page and experiments/README say what the stored results say, number by number (tests/claims.py)."""
import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from execnb.nbio import read_nb
from execnb.shell import CaptureShell

import claims
from claims import CLAIMS, FACTS, NO_MEASUREMENT, About

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("index", "50_results")
WORDS = {w: n for n, w in enumerate("two three four five six seven eight nine ten eleven twelve".split(), 2)}
WORDS |= {"once": 1, "twice": 2, "half": 1 / 2, "third": 1 / 3, "thirds": 1 / 3, "quarter": 1 / 4, "sixth": 1 / 6, "tenth": 1 / 10, "twenty": 20, "hundred": 100, "thousand": 1000}
NUMBER = rf"[-−]?(?:\d{{1,3}}(?:,\d{{3}})+|\d*\.\d+|\d+)|\b(?:{'|'.join(WORDS)})\b"
TOKEN = re.compile(rf"(?<![\w.]){NUMBER}", re.I)
UNREAD = re.compile(r"^```.*?^```|^~~~.*?^~~~|`[^`\n]+`|<!--.*?-->|(?<=\])\([^)\s]*\)", re.M | re.S)  # code and addresses
REFERENCE = re.compile(r"\[(?:notebook )?(\d\d)\b[^\]]*\]\([^)]*\b\1_[^)]*\)")  # [13](13_kvae.ipynb)


def notebook(name):
    return json.loads((ROOT / "nbs" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def prose(name):
    "The sentences of a notebook."
    return "\n\n".join("".join(c["source"]) for c in notebook(name) if c["cell_type"] == "markdown")


def texts(cells):
    "What the code cells of a notebook printed or showed as text, without the names of pictures."
    found = []
    for out in (o for c in cells if c["cell_type"] == "code" for o in c.get("outputs", [])):
        data = out.get("data", {})
        text = out.get("text") or data.get("text/markdown") or ("" if "image/png" in data else data.get("text/plain", ""))
        found.append("".join(text))
    return [t for t in found if t.strip()]


@pytest.fixture(scope="module")
def computed():
    "What the cells of the two pages give today, run on the stored results."
    found = {}
    with contextlib.chdir(ROOT / "nbs"):
        for name in PAGES:
            nb = read_nb(f"{name}.ipynb")
            CaptureShell().run_all(nb, exc_stop=True)
            found[name] = texts(nb.cells)
    return found


@pytest.fixture(scope="module")
def documents(computed):
    "The texts whose numbers are compared; tables that were just computed are left out of them."
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tables = {line for text in computed["index"] for line in text.splitlines()}
    return {"README.md": "\n".join(line for line in readme.splitlines() if line not in tables), "experiments/README.md": (ROOT / "experiments/README.md").read_text(encoding="utf-8")} | {
        name: prose(name) for name in PAGES}


def pattern(sentence):
    "A regular expression for a sentence in which each `{}` is a number."
    parts = [re.sub(r"\\?\s+", r"\\s+", re.escape(p)) for p in sentence.split("{}")]
    return re.compile(rf"({NUMBER})".join(parts), re.I)


def shown(word):
    "A printed number and half a unit of its last digit."
    if word.lower() in WORDS:
        return WORDS[word.lower()], 0.0
    plain = word.replace("−", "-").replace(",", "")
    return float(plain), 0.5 * 10.0 ** -len(plain.partition(".")[2])


def agrees(word, value):
    "Whether a printed number is this value, rounded to the digits it is printed with."
    number, half = shown(word)
    values = np.asarray(value.value if isinstance(value, About) else value, dtype=float)
    slack = value.share * np.abs(values) if isinstance(value, About) else half
    return bool((np.abs(number - values) <= slack + 1e-9).all())


def disagreements(text):
    "Sentences of `text` whose numbers differ from the results."
    found = []
    for claim in CLAIMS:
        for m in pattern(claim.sentence).finditer(text):
            values = claim.values()
            assert len(values) == len(m.groups()), f"{claim.sentence!r} has {len(m.groups())} numbers and {len(values)} values"
            found += [f"{m[0]!r}: printed {w}, the results give {v}" for w, v in zip(m.groups(), values) if not agrees(w, v)]
    return found + [f"{f.sentence!r} does not hold" for f in FACTS if pattern(f.sentence).search(text) and not f.holds()]


def undeclared(text):
    "Numbers of `text` that neither a claim nor `NO_MEASUREMENT` covers, with their surroundings."
    covered = [m.span() for p in [pattern(c.sentence) for c in CLAIMS + FACTS] + [re.compile(r, re.M) for r in NO_MEASUREMENT] for m in p.finditer(text)]
    read = UNREAD.sub(lambda m: " " * len(m[0]), REFERENCE.sub(lambda m: " " * len(m[0]), text))
    loose = [m for m in TOKEN.finditer(read) if not any(a <= m.start() and m.end() <= b for a, b in covered)]
    return [f"{m[0]!r} in …{text[max(0, m.start() - 50):m.end() + 30]!r}…" for m in loose]


DOCUMENTS = ("README.md", "experiments/README.md", *PAGES)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_numbers_are_those_of_the_results(documents, name):
    assert not disagreements(documents[name])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_number_is_declared(documents, name):
    found = undeclared(documents[name])
    assert not found, "\n".join(["say in tests/claims.py where these numbers come from:", *found])


def test_every_declaration_is_used(documents):
    whole = "\n\n".join(documents.values())
    unused = [c.sentence for c in CLAIMS + FACTS if not pattern(c.sentence).search(whole)] + [r for r in NO_MEASUREMENT if not re.search(r, whole, re.M)]
    assert not unused, "in tests/claims.py, but in no text:\n" + "\n".join(unused)


@pytest.mark.parametrize("name", PAGES)
def test_stored_tables_are_what_the_results_give(computed, name):
    assert computed[name] and texts(notebook(name)) == computed[name], f"{name}.ipynb was not run on today's results; run `make results`"


def test_the_readme_has_the_tables_of_the_index(computed):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(text.strip() in readme for text in computed["index"])


def matches(texts):
    "Every place where a claim stands: the claim, its words, and where its numbers are."
    return [(c, m) for c in CLAIMS for text in texts for m in pattern(c.sentence).finditer(text)]


def test_a_changed_number_is_noticed(documents):
    "Any one number of any sentence, made two larger in its last digit; or, where it is rough, 40."
    for claim, m in matches(documents.values()):
        for k, (word, value) in enumerate(zip(m.groups(), claim.values()), 1):
            rough = isinstance(value, About) or not word[-1].isdigit()
            other = "40" if rough else f"{word[:-1]}{(int(word[-1]) + 2) % 10}"
            start, end = m.start(k) - m.start(), m.end(k) - m.start()
            changed = m[0][:start] + other + m[0][end:]
            assert disagreements(changed) or undeclared(changed), f"{m[0]!r} was changed to {changed!r}"


def altered(value):
    "The same results with other numbers."
    if isinstance(value, dict):
        return {k: altered(v) for k, v in value.items()}
    if isinstance(value, list):
        return [altered(v) for v in value]
    return value if isinstance(value, (str, bool)) or value is None else 2 * value + 3 if isinstance(value, int) else 1.7 * value + 0.01


def values(claim):
    return [v.value if isinstance(v, About) else v for v in claim.values()]


def test_changed_results_are_noticed(documents, monkeypatch):
    "Claims that do not notice other numbers in every result file are counts of entries."
    before, stored = [values(c) for c in CLAIMS], claims.stored
    monkeypatch.setattr(claims, "stored", lambda name: altered(stored(name)))
    for claim, old in zip(CLAIMS, before):
        try:
            same = all(np.array_equal(a, b) for a, b in zip(old, values(claim)))
        except (ArithmeticError, LookupError, ValueError):
            continue
        if same:
            assert all(isinstance(v, int) for v in old), f"{claim.sentence!r} does not come from the results"
        else:
            assert all(disagreements(m[0]) for c, m in matches(documents.values()) if c is claim), f"{claim.sentence!r} agrees with other results"
