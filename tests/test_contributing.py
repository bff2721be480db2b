"""The walk of CONTRIBUTING.md, run as it stands there; the citation and the issue forms can be read."""

import inspect
import re
import shlex
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import test_protocol
import torch
import yaml
from models import MODELS

from kvae_nb.app.command import main
from kvae_nb.training.kinds import preset
from kvae_nb.training.runs import load_run

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WALK = PAGE[PAGE.index("## A walk") :]
CONFIG = ConfigParser(delimiters=["="])
CONFIG.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = CONFIG["DEFAULT"]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", WALK, re.M | re.S)


def of_file(name):
    "What the page writes into this file, one block after the other."
    return "\n\n".join(code for code in blocks("python") if code.startswith(f"# {name}"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A folder with the page's module, which can be imported while these tests run."
    where = tmp_path_factory.mktemp("walk")
    (where / "drift.py").write_text(of_file("drift.py"), encoding="utf-8")
    sys.path.insert(0, str(where))
    yield where
    sys.path.remove(str(where))
    sys.modules.pop("drift", None)


def test_every_block_of_code_belongs_to_a_file():
    assert len(blocks("python")) == 3 and all(re.match(r"# (drift|tests/models)\.py", b) for b in blocks("python"))
    assert PAGE.count("```") == 2 * (len(re.findall(r"^```(?:python|sh)$", PAGE, re.M)))


def test_the_commands_train_measure_and_continue(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = "".join(blocks("sh")).splitlines()
    assert lines[0] == "export PYTHONPATH=." and len(lines) == 4
    for line in lines[1:]:
        program, *words = shlex.split(line)
        assert program == "kvae" and main(words) == 0, capsys.readouterr().err
    (run,) = (tmp_path / "runs").iterdir()
    config = load_run(run).config
    assert config.kind == "drift:DRIFT" and (config.data.sequences, config.train.epochs) == (60, 1)
    assert (run / "evaluation.json").exists() and (tmp_path / "dreams").exists()
    for name in ("demo", "long"):
        assert preset(name, "drift:DRIFT").train.join == {}


@pytest.fixture
def model(folder):
    "The page's model, by the lines that the page adds to tests/models.py; away from its start."
    found = {"MODELS": {}}
    exec(of_file("tests/models.py"), found)
    torch.manual_seed(0)
    return found["MODELS"]["drift"]().eval()


x, u, mask = test_protocol.x, test_protocol.u, test_protocol.mask
for name, question in vars(test_protocol).items():  # the questions that every model of films is asked
    if name.startswith("test_") and "model" in inspect.signature(question).parameters:
        globals()[name] = question


def test_what_is_between_two_seen_frames_is_what_a_dense_gaussian_says(model):
    "The page's closed form against conditioning the covariance matrix of the whole path, φ^|s-t|."
    phi, steps = model.pace.detach().double().sigmoid(), 9
    t = torch.arange(steps)
    seen = torch.tensor([[0, 1, 1, 0, 0, 0, 1, 0, 0]]).bool()
    frames = torch.rand(1, steps, 1, 16, 16)
    model = model.double()
    with torch.no_grad():
        found, a = model.impute(frames.double(), seen).smoothed.a, model.encode(frames.double())
    for d in range(2):
        whole = phi[d] ** (t[:, None] - t).abs()
        gain = torch.linalg.solve(whole[seen[0]][:, seen[0]], whole[seen[0]]).T
        gone = ~seen[0]
        torch.testing.assert_close(found.mean[0, gone, d], (gain @ a[0, seen[0], d])[gone])
        var = (whole - gain @ whole[seen[0]]).diagonal()
        torch.testing.assert_close(found.cov[0, gone, d, d], var[gone])


def test_without_noise_nothing_is_drawn(model):
    before = torch.get_rng_state()
    with torch.no_grad():
        one, again = (model.generate(5, 2, noise=False).frames for _ in range(2))
    assert torch.equal(one, again) and torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)\s]+)\)", PAGE) + re.findall(r"`((?:tests|nbs)/\S+?)`", PAGE))
def test_the_page_leads_to_files_that_there_are(target):
    assert (ROOT / target).exists() or target == "nbs/30b_drift.ipynb", target  # the walk's own


def test_the_page_says_what_is_there():
    assert "drift" not in MODELS
    assert set(re.findall(r"^make ([a-z-]+)", PAGE, re.M)) <= set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    )
    layers = re.search(r"^layers = (\[.*\])$", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]
    house = re.search(r"imports lead down only: (.*?)\.", PAGE)[1].replace("`", "").replace(" and ", " | ")
    assert house.split(" → ") == yaml.safe_load(layers)


# The citation and the forms

CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_citation_says_what_the_settings_say():
    assert CITATION["cff-version"] == "1.2.0" and CITATION["type"] == "software" and CITATION["message"]
    assert CITATION["version"] == SETTINGS["version"] and CITATION["title"] == SETTINGS["title"]
    assert CITATION["authors"] == [{"name": SETTINGS["author"]}]
    assert CITATION["license"].lower() == SETTINGS["license"] == "mit"
    assert "MIT License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert CITATION["repository-code"] == SETTINGS["git_url"]
    assert CITATION["keywords"] == SETTINGS["keywords"].split() and CITATION["abstract"] == SETTINGS["description"]


def test_the_papers_of_the_citation_are_those_of_the_glossary():
    glossary = (ROOT / "nbs/90_glossary.ipynb").read_text(encoding="utf-8")
    assert len(CITATION["references"]) >= 10 and "1710.05741" in CITATION["references"][0]["url"]
    for paper in CITATION["references"]:
        assert paper["type"] in ("conference-paper", "article", "generic") and paper["authors"] and paper["notes"]
        first = paper["authors"][0]["family-names"]
        assert re.search(rf"{first}.*{paper['year']}.*\*{re.escape(paper['title'])}\.\*", glossary), paper["title"]
        if "url" in paper:
            number = paper["url"].removeprefix("https://arxiv.org/abs/")
            assert paper["identifiers"] == [{"type": "other", "value": f"arXiv:{number}"}]
            assert f"*{paper['title']}.* [arXiv:{number}]" in glossary


FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))


@pytest.mark.parametrize("path", [p for p in FORMS if p.stem != "config"], ids=lambda p: p.stem)
def test_an_issue_form_can_be_shown(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(form) == {"name", "description", "labels", "body"} and all(map(isinstance, form["labels"], [str]))
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids)) and "version" in ids and "data" in ids
    for field in form["body"]:
        assert set(field) <= {"type", "id", "attributes", "validations"}
        assert field["type"] in ("textarea", "input") and field["attributes"]["label"]
        assert set(field["attributes"]) <= {"label", "description", "placeholder", "render"}


def test_the_front_of_the_issues_leads_to_notebooks_that_there_are():
    config = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/config.yml").read_text(encoding="utf-8"))
    assert config["blank_issues_enabled"] is True
    for link in config["contact_links"]:
        assert set(link) == {"name", "url", "about"}
        start, _, place = link["url"].partition("/blob/main/")
        assert start == SETTINGS["git_url"] and (ROOT / place).exists()
