"""What is loaded before anything is computed. Modules are counted and not seconds, which differ between machines."""

import subprocess
import sys

import pytest

from kvae_nb.app.command import SENTENCES, usage

HEAVY = "torch numpy matplotlib pymunk accelerate numba llvmlite scipy sklearn pandas jsonargparse imageio".split()
LATER = "scipy sklearn pandas numba tensorboard gymnasium music21 ipywidgets IPython statsmodels".split()
SHELL = "import sys; from kvae_nb.app.command import main; code = main(sys.argv[1:]);"


def loaded(code, *words):
    "The last line a new process prints, and its error stream."
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300)
    return done.stdout.strip().splitlines()[-1], done.stderr


def those(names):
    "Code that prints which of these modules are loaded."
    return f" print(*sorted(set({names}) & set(sys.modules)), sep=' ', end='.')"


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["--version"], ["fly"], ["--speed", "3"]], ids=str)
def test_help_version_and_wrong_words_load_nothing(words):
    code = 2 if words and words[0] in ("fly", "--speed") else 0
    found, err = loaded(f"{SHELL} assert code == {code}, code;{those(HEAVY)}", *words)
    assert found == "."
    assert ("there is no verb" in err) == bool(code) and "Traceback" not in err


def test_the_package_loads_nothing():
    assert loaded(f"import sys; import kvae_nb, kvae_nb.app, kvae_nb.inference;{those(HEAVY)}")[0] == "."


@pytest.mark.parametrize("what", ["from kvae_nb import KVAE, kalman_filter", "import kvae_nb.app.verbs"])
def test_what_is_used_later_is_loaded_later(what):
    assert loaded(f"import sys; {what};{those(LATER)}")[0] == "."


def test_a_model_needs_no_drawing():
    "A model, and the inference below it, load nothing of evaluation and training."
    code = "import sys; from kvae_nb import KVAE, log_evidence;"
    assert loaded(code + those([*LATER, "matplotlib", "accelerate", "pymunk", "jsonargparse", "imageio"]))[0] == "."


def test_the_sentences_are_those_of_the_parsers():
    from kvae_nb.app.verbs import VERBS

    assert list(SENTENCES) == list(VERBS)
    for verb, (make, _) in VERBS.items():
        first = make().description.split(". ")[0].rstrip(".") + "."
        assert SENTENCES[verb] == first and first in usage()
