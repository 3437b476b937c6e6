"""The page on experiments, done in a fresh clone of this repository, from training to plots."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from ruamel.yaml import YAML

from tests.docs.console import commands, differences
from tests.shell import cloned, environment, output

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "experiments.md"
# Of a training that is as short as can be, what it learned is not what the page shows.
LEARNED = re.compile(r"accuracy |accuracy_drop|agreement|epochs")


def kept(place: Path) -> bool:
    """Whether this checkout's cache has the recorded model, which `make demo` puts there; the clone then has it too."""
    lock = YAML(typ="safe").load(ROOT / "dvc.lock")["stages"]
    md5 = lock["finetune"]["outs"][0]["md5"]
    cache = ROOT / ".dvc" / "cache"
    if not (cache / "files" / "md5" / md5[:2] / md5[2:]).is_file():
        return False
    shutil.copytree(cache, place / ".dvc" / "cache", symlinks=True)
    return True


def test_the_page_on_experiments(tmp_path: Path) -> None:
    place = tmp_path / "clone"
    cloned(ROOT, place)
    (tmp_path / ".gitconfig").write_text("[user]\n\tname = tester\n\temail = tester@example.org\n")
    variables = environment(tmp_path)
    whole = kept(place) or os.environ.get("COMPRESSOR_TESTS") == "all"
    if not whole:
        file = place / "params.yaml"
        file.write_text(re.sub(r"(dense_epochs|compressed_epochs): \d+", r"\1: 1", file.read_text()))
        output(place, variables, "dvc repro --quiet && git commit --quiet -am short")
    done = []
    for command in commands(PAGE.read_text(encoding="utf-8")):
        shown, printed = command.shown, output(place, variables, command.typed)
        done.append(command.typed.split()[1])
        if not whole:
            shown, printed = (
                "\n".join(line for line in text.splitlines() if not LEARNED.search(line.partition("|")[0]))
                for text in (shown, printed)
            )
        wrong = differences(shown, printed)
        assert not wrong, "\n".join([f"$ {command.typed}", *wrong, printed])
    assert {"exp", "metrics", "params", "plots"} <= set(done)
    assert output(place, variables, "git status --porcelain") == ""
    # What was there before is there again, and running it is to do nothing.
    lines = output(place, variables, "dvc repro").splitlines()
    assert not [line for line in lines if line.startswith("Running stage")]
    assert output(place, variables, "git status --porcelain") == ""


def test_the_readme_shows_commands_of_the_page() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Experiments\n")[2].partition("\n## ")[0]
    shown = list(commands(section.replace("```\n$ ", "```console\n$ ")))
    followed = list(commands(PAGE.read_text(encoding="utf-8")))
    assert len(shown) > 5
    assert [one for one in shown if one not in followed] == []
