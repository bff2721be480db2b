"""README, index, the results page and experiments/README say what the stored results say, number by number.

tests/claims.py has the sentences, tests/results.py the values behind them.
"""

import contextlib
import json
import re

import numpy as np
import pytest
import results
from claims import CLAIMS, FACTS, NO_MEASUREMENT, About
from execnb.nbio import read_nb
from execnb.shell import CaptureShell
from results import ROOT

PAGES = ("index", "65_results")
DOCUMENTS = ("README.md", "experiments/README.md", *PAGES)
WORDS = {w: n for n, w in enumerate("two three four five six seven eight nine ten eleven twelve".split(), 2)}
WORDS |= {"once": 1, "twice": 2, "twenty": 20, "hundred": 100, "thousand": 1000}
WORDS |= {"half": 1 / 2, "third": 1 / 3, "thirds": 1 / 3, "quarter": 1 / 4, "sixth": 1 / 6, "tenth": 1 / 10}
DIGITS = r"[-−]?(?:\d{1,3}(?:,\d{3})+|\d*\.\d+|\d+)"
TOKEN = re.compile(
    rf"(?<![\w.]){DIGITS}|\b(?:{'|'.join(WORDS)})\b", re.I
)  # "one" is too common to ask for it everywhere
WORDS["one"] = 1
NUMBER = rf"({DIGITS}|\b(?:{'|'.join(WORDS)})\b)"
UNREAD = re.compile(
    r"^```.*?^```|^~~~.*?^~~~|`[^`\n]+`|<!--.*?-->|(?<=\])\([^)\s]*\)", re.M | re.S
)  # code and addresses
REFERENCE = re.compile(r"\[(?:notebook )?(\d\d[a-z]?)\b[^\]]*\]\([^)]*\b\1_[^)]*\)")  # [07](07_kvae.ipynb)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def cells(name):
    return json.loads(read(f"nbs/{name}.ipynb"))["cells"]


def prose(name):
    "The sentences of a notebook."
    return "\n\n".join("".join(c["source"]) for c in cells(name) if c["cell_type"] == "markdown")


def printed(cells):
    "What the code cells of a notebook printed or showed as text, without the names of pictures."
    found = []
    for out in (o for c in cells if c["cell_type"] == "code" for o in c.get("outputs", [])):
        data = out.get("data", {})
        plain = "" if "image/png" in data else data.get("text/plain", "")
        found.append("".join(out.get("text") or data.get("text/markdown") or plain))
    return [t for t in found if t.strip()]


@pytest.fixture(scope="module")
def computed():
    "What the cells of the two pages give today, run on the stored results."
    found = {}
    with contextlib.chdir(ROOT / "nbs"):
        for name in PAGES:
            nb = read_nb(f"{name}.ipynb")
            CaptureShell().run_all(nb, exc_stop=True)
            found[name] = printed(nb.cells)
    return found


@pytest.fixture(scope="module")
def documents(computed):
    "The texts whose numbers are compared; the README without the tables that were just computed."
    tables = {line for text in computed["index"] for line in text.splitlines()}
    readme = "\n".join(line for line in read("README.md").splitlines() if line not in tables)
    return {"README.md": readme, "experiments/README.md": read("experiments/README.md")} | {
        name: prose(name) for name in PAGES
    }


def pattern(sentence):
    "A regular expression for a sentence in which each `{}` is a number."
    return re.compile(NUMBER.join(re.sub(r"\\?\s+", r"\\s+", re.escape(part)) for part in sentence.split("{}")), re.I)


def shown(word):
    "A printed number and half a unit of its last digit."
    if word.lower() in WORDS:
        return WORDS[word.lower()], 0.0
    plain = word.replace("−", "-").replace(",", "")
    return float(plain), 0.5 * 10.0 ** -len(plain.partition(".")[2])


def agrees(word, value):
    "Whether a printed number is this value, rounded to the digits it is printed with."
    number, half = shown(word)
    exact = np.asarray(value.value if isinstance(value, About) else value, dtype=float)
    slack = value.share * np.abs(exact) if isinstance(value, About) else half
    return exact.size > 0 and bool((np.abs(number - exact) <= slack + 1e-9).all())


def disagreements(text):
    "Sentences of `text` whose numbers differ from the results, or which do not hold."
    found = []
    for claim in CLAIMS:
        for m in pattern(claim.sentence).finditer(text):
            pairs = zip(m.groups(), claim.values(), strict=True)
            found += [
                f"{m[0]!r}: printed {word}, the results give {value}"
                for word, value in pairs
                if not agrees(word, value)
            ]
    return found + [
        f"{f.sentence!r} does not hold" for f in FACTS if pattern(f.sentence).search(text) and not f.holds()
    ]


def undeclared(text):
    "Numbers of `text` that no declaration covers, with their surroundings."
    known = [pattern(c.sentence) for c in CLAIMS + FACTS] + [re.compile(r, re.M) for r in NO_MEASUREMENT]
    covered = [m.span() for p in known for m in p.finditer(text)]
    blank = lambda m: " " * len(m[0])
    loose = [
        m
        for m in TOKEN.finditer(UNREAD.sub(blank, REFERENCE.sub(blank, text)))
        if not any(start <= m.start() and m.end() <= end for start, end in covered)
    ]
    return [f"{m[0]!r} in …{text[max(0, m.start() - 50) : m.end() + 30]!r}…" for m in loose]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_numbers_are_those_of_the_results(documents, name):
    assert not disagreements(documents[name])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_number_is_declared(documents, name):
    found = undeclared(documents[name])
    assert not found, "\n".join(["say in tests/claims.py where these numbers come from:", *found])


def test_every_declaration_is_used(documents):
    whole = "\n\n".join(documents.values())
    unused = [c.sentence for c in CLAIMS + FACTS if not pattern(c.sentence).search(whole)]
    unused += [r for r in NO_MEASUREMENT if not re.search(r, whole, re.M)]
    assert not unused, "in tests/claims.py, but in no text:\n" + "\n".join(unused)


@pytest.mark.parametrize("name", PAGES)
def test_stored_tables_are_what_the_results_give(computed, name):
    assert computed[name] and printed(cells(name)) == computed[name], (
        f"{name}.ipynb: not today's results; run `make results`"
    )


def test_the_readme_has_the_tables_of_the_index(computed):
    assert all(text.strip() in read("README.md") for text in computed["index"])


def places(documents, claim):
    "Where a claim stands."
    return [m for text in documents.values() for m in pattern(claim.sentence).finditer(text)]


def test_a_changed_number_is_noticed(documents):
    "Any one number of any sentence, made two larger in its last digit; or, where it is rough, 40."
    for claim, m in ((c, m) for c in CLAIMS for m in places(documents, c)):
        for k, (word, value) in enumerate(zip(m.groups(), claim.values()), 1):
            exact = word[-1].isdigit() and not isinstance(value, About)
            other = f"{word[:-1]}{(int(word[-1]) + 2) % 10}" if exact else "40"
            changed = m[0][: m.start(k) - m.start()] + other + m[0][m.end(k) - m.start() :]
            assert disagreements(changed) or undeclared(changed), f"{m[0]!r} was changed to {changed!r}"


def altered(value):
    "The same results with other numbers."
    if isinstance(value, dict):
        return {k: altered(v) for k, v in value.items()}
    if isinstance(value, list):
        return [altered(v) for v in value]
    if isinstance(value, (str, bool)) or value is None:
        return value
    return 2 * value + 3 if isinstance(value, int) else 1.7 * value + 0.01


def values(claim):
    return [v.value if isinstance(v, About) else v for v in claim.values()]


def test_changed_results_are_noticed(documents, monkeypatch):
    "Claims that do not notice other numbers in every result file are counts of entries."
    before, stored = [values(c) for c in CLAIMS], results.stored
    monkeypatch.setattr(results, "stored", lambda name: altered(stored(name)))
    for claim, old in zip(CLAIMS, before):
        try:
            same = all(np.array_equal(a, b) for a, b in zip(old, values(claim)))
        except (ArithmeticError, LookupError, ValueError):
            continue
        if same:
            assert all(isinstance(v, int) for v in old), f"{claim.sentence!r} does not come from the results"
        else:
            assert all(disagreements(m[0]) for m in places(documents, claim)), (
                f"{claim.sentence!r} agrees with other results"
            )


def test_words_and_digits_are_read_as_numbers():
    assert not agrees(".96", 0.9547) and agrees(".95", 0.9547) and agrees("-1.009", -1.0094) and agrees("−2", -2)
    assert (
        agrees("18", 18)
        and not agrees("0", 18)
        and agrees("twenty", 20)
        and agrees("half", About(0.54))
        and not agrees("half", 0.54)
    )
    assert len(undeclared("5 of six, .7, 1,000 and `8`, [07](07_kvae.ipynb), [07](09_slds.ipynb)")) == 5
