"""The report: one page that loads nothing, says what the profile says, and runs no word of a config as HTML."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import minimodels
from minimodels import loader
from minimodels.cli import main
from minimodels.run import Run
from minimodels.sim import units, views
from minimodels.sim.comparison import compare_profiles
from minimodels.sim.profile import Profile
from minimodels.sim.report import flame
from minimodels.sim.report.profile import PICTURES, Subject, page
from minimodels.sim.simulate import simulate

EVIL = "<script>alert(1)</script>"


def of(name: str, attention: str = "flash") -> Profile:
    return simulate(loader.load(name), Run(device="a100-80gb", attention=attention))


@pytest.fixture(scope="module")
def text() -> str:
    profile, before = of("stable-diffusion-tiny"), of("stable-diffusion-tiny", "baseline")
    return page([Subject(profile, baseline=before), Subject(of("parti-tiny"))])


def test_the_page_loads_nothing(text: str) -> None:
    assert not re.search(r"(?:src|href)=\"(?!#)", text), "references lead inside the page"
    assert "url(http" not in text and "@import" not in text
    assert "default-src 'none'" in text


def test_the_page_is_well_formed_and_its_ids_are_unique(text: str) -> None:
    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.ids: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.ids += [value for key, value in attrs if key == "id" and value]
            if tag not in ("meta", "br", "input", "link"):
                self.open.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.ids += [value for key, value in attrs if key == "id" and value]

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    reader = Reader()
    reader.feed(text)
    assert not reader.open and len(reader.ids) == len(set(reader.ids))


def test_the_page_says_what_the_profile_says(text: str) -> None:
    profile = of("stable-diffusion-tiny")
    for what in ("SIMULATED on NVIDIA A100", "Side by side", "Attention written out", "What the numbers rest on"):
        assert what in text
    for stage in profile.stages:
        assert stage.name.replace("_", " ") in text


def test_side_by_side_says_what_differs_and_how_many_times_as_much(text: str) -> None:
    found = compare_profiles([of("stable-diffusion-tiny"), of("parti-tiny")])
    beside = text[text.index('id="beside"') : text.index('id="1"')]
    assert f"What differs: {len(found.differences)} keys" in beside
    assert all(f'<td data-name="What">{one.key}</td>' in beside for one in found.differences if one.where != "run")
    whole = next(row for row in found.rows if (row.quantity, row.of, row.name) == ("Time", "stage", "all"))
    first, other = (float(value or 0) for value in whole.values)
    assert f'{units.seconds(other)} <span class="ratio">{units.times(other / first)}</span>' in beside
    assert "side by side" not in page([Subject(of("parti-tiny"))]).lower()


def test_a_report_of_one_model_says_its_title_once_and_leads_to_its_parts() -> None:
    text = page([Subject(of("parti-tiny"))])
    body = text[text.index("<body>") :]
    assert body.count("Parti tiny (parti-tiny)") == 1
    for part in ("architecture", "time", "operators", "assumptions"):
        assert f'href="#1-{part}"' in body and f'id="1-{part}"' in body
    assert 'href="#1-changes"' not in body, "a part that is not there is not led to"


def test_nothing_from_a_profile_is_run_as_html() -> None:
    profile = of("llama-tiny")
    config = {**profile.config, "title": EVIL, "paper": EVIL}
    ops = tuple(op.model_copy(update={"scope": f"{EVIL}/x"}) for op in profile.ops)
    text = page([Subject(profile.model_copy(update={"config": config, "ops": ops}))])
    assert EVIL not in text and "&lt;script&gt;alert(1)" in text


def test_the_flame_holds_all_time_and_bars_lie_under_what_they_are_part_of() -> None:
    profile = of("make-a-video-tiny")
    root = flame.tree(profile)
    assert root.seconds == pytest.approx(views.totals(profile.ops).known_seconds)

    def check(node: flame.Node) -> None:
        assert sum(child.seconds for child in node.children) == pytest.approx(node.seconds) or not node.inside
        for child in node.children:
            assert child.start >= node.start - 1e-9 and child.start + child.share <= node.start + node.share + 1e-9
            check(child)

    check(root)


def test_the_flame_names_every_stage_in_the_order_it_runs_and_hides_nothing() -> None:
    """Of Parti-20B the text encoder and the detokenizer take less than a thousandth of the time each."""
    profile = of("parti-20b")
    root = flame.tree(profile)
    assert [child.name for child in root.children] == [stage.name.replace("_", " ") for stage in profile.stages]
    assert all(child.inside for child in root.children)

    def operators(node: flame.Node) -> set[tuple[str, ...]]:
        own = () if node.name.endswith(" more") else (node.name,)
        return {own + rest for child in node.children for rest in operators(child)} if node.inside else {own}

    known = {("all", op.stage.replace("_", " "), *filter(None, op.scope.split("/")), op.name) for op in profile.ops}
    assert operators(root) == {tuple(part.removeprefix("aten::") for part in path) for path in known}


def test_any_module_can_be_reported() -> None:
    network = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 49, 5))
    text = page([Subject(minimodels.simulate(network, torch.randn(2, 3, 7, 7), device="h100-sxm"))])
    assert "7 x 7" in text and "Sequential" in text


@pytest.fixture(scope="module")
def large() -> str:
    """A report of models whose runs are long, and whose stages are many."""
    return page([Subject(of("parti-20b")), Subject(of("make-a-video"))])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium here to open the page in")
@pytest.mark.parametrize("width", (1280, 390))
@pytest.mark.parametrize("which", ("text", "large"))
def test_a_browser_opens_the_page_without_an_error_or_overflow(
    which: str, width: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Neither the page nor a picture, nor a text of one, is wider than what holds it; everything is open."""
    measured = """<script>
      document.querySelectorAll("details").forEach((one) => (one.open = true));
      const right = (one) => one.getBoundingClientRect().right;
      const texts = [...document.querySelectorAll("svg text")];
      const wide = texts.filter((one) => right(one) > right(one.closest("svg")) + 1);
      document.body.dataset.wide = document.documentElement.scrollWidth + " of " + innerWidth + ", " + wide.length;
    </script>"""
    file = tmp_path / "report.html"
    file.write_text(request.getfixturevalue(which).replace("</body>", f"{measured}</body>"))
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
        f"--window-size={width},900", f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom", f"file://{file}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'data-wide="(\d+) of (\d+), (\d+)"', done.stdout)
    assert found is not None, done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]
    assert int(found[1]) <= int(found[2]) and int(found[3]) == 0, found[0]


def test_pictures_take_the_colours_of_the_page_and_hold_no_pixels(text: str) -> None:
    pictures = text[text.index('<div class="pictures">') : text.index('id="1-operators"')]
    assert pictures.count("<svg") == len(PICTURES)
    assert "#000000" not in pictures and "#ffffff" not in pictures and "<image" not in pictures
    assert "currentColor" in pictures and "var(--back)" in pictures


def test_the_command_takes_names_and_profiles_and_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    kept, out = tmp_path / "kept.json", tmp_path / "report.html"
    of("parti-tiny").save(kept)
    done = CliRunner().invoke(main, ["report", "llama-tiny", str(kept), "--device", "h100-sxm", "--out", str(out)])
    assert done.exit_code == 0, done.output
    text = out.read_text()
    assert "What if" in text and "Attention written out" in text and "NVIDIA A100" in text and "NVIDIA H100" in text
    for wrong, said in (
        (["llama-tiny", "--device", "cuda"], "a report simulates"),
        (["llama-tinny"], "llama-tiny"),
        (["llama-tiny", "--out", str(tmp_path / "no" / "r.html")], "cannot write"),
        ([str(kept), "--out", str(kept)], "overwrite"),
    ):
        result = CliRunner().invoke(main, ["report", *wrong])
        assert result.exit_code == 2 and said in result.stderr, result.output
    assert Profile.load(kept)
