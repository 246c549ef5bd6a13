"""What the documents and workflows name is there."""

import itertools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = sorted(path for part in ("*", "docs/*", "findings/*", "tflite/**/*") for path in ROOT.glob(f"{part}.md"))
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))


def relative(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links(document):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("document", [*DOCUMENTS, *WORKFLOWS, ROOT / "Makefile"], ids=relative)
def test_files(document):
    """Paths from the repository's root, such as `tests/test_{core,delegate}.py`."""
    text = document.read_text(encoding="utf-8")
    folders, endings = "docs|fbs_keras|_fbs_scripts|recipes|scripts|tests|tflite", "c|cfg|h|json|md|png|py|sh|svg|yml"
    pattern = rf"(?<![\w/.-])(?:{folders})/[\w./{{}},-]*\.(?:{endings})\b"
    missing = [path for path in re.findall(pattern, text) if not all((ROOT / p).exists() for p in expanded(path))]
    assert not missing


def expanded(path):
    """As a shell does: a{b,c}d is abd and acd."""
    parts = [part.split(",") for part in re.split(r"\{([^}]*)\}", path)]
    return ["".join(choice) for choice in itertools.product(*parts)]
