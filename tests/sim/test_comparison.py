"""`minibench compare`: what differs in two architectures, and what that does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from minimodels import compare, load, simulate
from minimodels.cli import main
from minimodels.sim import views
from minimodels.sim.comparison import Comparison, Difference, compare_profiles
from minimodels.sim.inventory import counted
from minimodels.sim.sentences import sentences

TINY = "stable-diffusion-tiny"
CHANGED = ["unet.levels.1.res_blocks=5", "run.steps=7", "unet.levels.0.channels=36"]


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare(load(TINY), load(TINY, CHANGED), device="h200")


def test_the_keys_that_differ_are_listed_with_both_values(found: Comparison) -> None:
    assert found.differences == (
        Difference("architecture", "unet.levels.0.channels", (24, 36)),
        Difference("architecture", "unet.levels.1.res_blocks", (2, 5)),
        Difference("run", "steps", (3, 7)),
    )


def test_rows_are_the_totals_of_the_profiles(found: Comparison) -> None:
    first, second = found.profiles
    for row in found.rows:
        if (row.quantity, row.of) == ("Time", "stage and category"):
            stage, category = row.name.split(", ")
            parts = [views.by_category(p, "core", stage)[category] for p in (first, second)]
            assert row.values == tuple(part.known_seconds for part in parts)
    by = {(row.quantity, row.of, row.name): row.values for row in found.rows}
    assert by["FLOPs", "stage", "all"] == tuple(views.totals(p.ops).flops for p in (first, second))
    assert by["Memory in use", "", "peak"] == (first.memory.peak, second.memory.peak)
    counts = [counted(load(TINY, overrides)) for overrides in ((), CHANGED)]
    assert by["Parameters", "part", "unet"] == tuple(count["unet"] for count in counts)
    assert by["Parameters", "part", "all"] == tuple(sum(count.values()) for count in counts)


def test_the_biggest_contributor_comes_first(found: Comparison) -> None:
    tables: dict[tuple[str, str], list[float]] = {}
    for row in found.rows:
        if row.name != "all":
            tables.setdefault((row.quantity, row.of), []).append(row.change)
    assert len(tables) == 11
    for changes in tables.values():
        assert changes == sorted(changes, reverse=True)


def test_a_section_that_only_one_has_is_listed_key_by_key() -> None:
    profiles = [simulate(load(name), device="h200") for name in (TINY, "parti-tiny")]
    differences = {one.key: one.values for one in compare_profiles(profiles).differences}
    assert differences["unet.levels.0.channels"] == (24, None)
    assert differences["kind"] == ("latent-diffusion", "autoregressive-image")
    assert differences["gen_len" if "gen_len" in differences else "temperature"][0] is None


def test_equal_variants_differ_in_nothing() -> None:
    same = compare(TINY, TINY)
    assert not same.differences and not any(row.change for row in same.rows)
    said = CliRunner().invoke(main, ["compare", TINY, TINY]).stdout
    assert "Nothing differs in the architecture or the run." in said


def test_what_bounds_each_variant_is_said() -> None:
    found = CliRunner(env={"COLUMNS": "400"}).invoke(main, ["compare", TINY, "llama-tiny"]).stdout
    for letter, name in (("A", TINY), ("B", "llama-tiny")):
        (line,) = [line for line in found.splitlines() if line.startswith(f"{letter}: ")]
        assert line.rstrip() == f"{letter}: {' '.join(sentences(simulate(load(name))))}"


def test_names_files_and_profiles_are_compared_with_each_other(tmp_path: Path) -> None:
    toml, saved = tmp_path / "wide.toml", tmp_path / "p.json"
    toml.write_text(f'base = "{TINY}"\n[unet]\ntime_dim = 40\n')
    simulate(load(TINY), device="h200").save(saved)
    result = CliRunner().invoke(main, ["compare", str(saved), str(toml), TINY, "--device", "h200", "--json"])
    record = json.loads(result.stdout)
    assert record["names"][0].startswith("stable-diffusion-tiny") and record["names"][1] == "wide"
    assert {one["key"]: one["values"] for one in record["differences"] if one["where"] == "architecture"} == {
        "unet.time_dim": [20, 40, 20]
    }


def test_options_change_what_names_are_compared_at(tmp_path: Path) -> None:
    def flops(*options: str) -> list[int]:
        words = ["compare", TINY, "stable-diffusion-tiny", *options, "--json"]
        rows = json.loads(CliRunner().invoke(main, words).stdout)["rows"]
        return next(r["values"] for r in rows if (r["quantity"], r["of"], r["name"]) == ("FLOPs", "stage", "all"))

    assert flops("--batch", "3")[0] > 2 * flops()[0] and flops("--steps", "6")[0] > flops()[0]


def test_set_changes_every_architecture_that_is_named() -> None:
    both = [TINY, "sdxl-tiny"]
    found = json.loads(CliRunner().invoke(main, ["compare", *both, "--set", "run.steps=6", "--json"]).stdout)
    expected = compare(*(load(name, ["run.steps=6"]) for name in both), device="a100-80gb")
    rows = {(row.quantity, row.of, row.name): list(row.values) for row in expected.rows}
    assert all(rows[row["quantity"], row["of"], row["name"]] == row["values"] for row in found["rows"])
    wrong = CliRunner().invoke(main, ["compare", TINY, "llama-tiny", "--set", "run.steps=6"])
    assert wrong.exit_code == 2 and "llama-tiny has no key 'steps' in run" in wrong.stderr


def test_options_go_with_no_profile(tmp_path: Path) -> None:
    saved = tmp_path / "p.json"
    simulate(load(TINY)).save(saved)
    result = CliRunner().invoke(main, ["compare", str(saved), str(saved), "--image-size", "32"])
    assert result.exit_code == 2 and "--image-size: profiles are shown as they were made" in result.stderr
    for command in (["compare", str(saved), str(saved)], ["report", str(saved), "--out", str(tmp_path / "r.html")]):
        result = CliRunner().invoke(main, [*command, "--set", "run.steps=5"])
        assert result.exit_code == 2 and "--set: profiles are shown as they were made" in result.stderr
    with pytest.raises(ValueError, match="batch: profiles are compared as they were made"):
        compare(simulate(load(TINY)), simulate(load(TINY)), batch=3)
    with pytest.raises(ValueError, match="at least two"):
        compare(TINY)
