"""What the terminal shows: the numbers, the widths, and that nothing is said by colour alone."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import RenderableType

from minimodels import loader
from minimodels.run import Run
from minimodels.sim import comparison, comparison_table, device, inventory, listings, tables, views
from minimodels.sim.profile import Environment, Profile
from minimodels.sim.simulate import simulate
from tests.sim.profiles import image, language, on, op


def written(shown: RenderableType, width: int = 80) -> str:
    """`shown` as a pipe of that width gets it."""
    console = tables.console(io.StringIO())
    console.width = width
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def compared(profiles: Sequence[Profile]) -> RenderableType:
    return comparison_table.report(comparison.compare_profiles(profiles))


def cells(text: str, first: str, nth: int = 0) -> list[str]:
    """The cells of the `nth` table row that begins with `first`."""
    rows = [line for line in text.splitlines() if re.match(rf"{re.escape(first)}\s{{2,}}", line)]
    return re.split(r"\s{2,}", rows[nth].strip())


def unknown_time(profile: Profile) -> Profile:
    """`profile` with an operator more, of which nothing is known."""
    extra = op("decode", "Other", "aten::mystery[0]", weight=5.0, flops=None, device_seconds=None)
    return profile.model_copy(update={"ops": (*profile.ops, extra)})


def test_summary_says_what_ran_on_what_and_how() -> None:
    lines = written(tables.profile_summary(image())).splitlines()
    assert lines[0] == "parti-toy: SIMULATED on Toy GPU (times: datasheet constants)"
    assert lines[1] == "device toy, attention flash, dtype bfloat16, batch 1, mode eager"
    assert "79.0 ms/image, MFU 5.0 %, achieved bandwidth 46.7 kB/s (4.7 % of 1.00 MB/s)" in lines


def test_measured_summary_does_not_say_simulated() -> None:
    text = written(tables.profile_summary(image("measured", seed=3)))
    assert text.startswith("parti-toy: measured on Toy GPU\n")
    assert "seed 3" in text and "SIMULATED" not in text


def test_stage_table_has_time_share_flops_bytes_intensity_and_peak() -> None:
    text = written(tables.detail(image()))
    assert cells(text, "decode") == ["decode", "70.0 ms", "89 %", "4.97 kFLOP", "3.28 kB", "1.52", "1.89 kB"]
    assert cells(text, "all") == ["all", "79.0 ms", "100 %", "7.97 kFLOP", "3.69 kB", "2.16", "1.89 kB"]


def test_detail_by_module_and_category_start_with_the_slowest() -> None:
    modules = written(tables.profile_summary(image(), by="module"))
    assert cells(modules, "attention")[1:3] == ["52.0 ms", "66 %"]
    categories = written(tables.detail(image(), by="category"))
    assert [line.split()[0] for line in categories.splitlines()[2:7]] == [
        "Linear", "Attention", "Convolution", "Norm", "Embedding",
    ]  # fmt: skip


def test_category_table_shows_both_readings() -> None:
    attention = cells(written(tables.categories(image())), "Attention")
    assert attention == ["Attention", "17.0 ms", "22 %", "52.0 ms", "66 %"]


def test_a_measured_compiled_run_says_that_its_readings_are_one() -> None:
    assert "which compiled belong to no block" in written(tables.profile_summary(image("measured", mode="compiled")))
    for told in (image(mode="compiled"), image("measured")):
        assert "all inside an attention block is Attention" in written(tables.profile_summary(told))


@pytest.mark.parametrize("by", ("module", "attention"))
def test_a_measured_compiled_run_has_no_blocks_to_list(by: Any) -> None:
    said = f"--by {by}: compiled, kernels belong to no block; --mode eager has blocks"
    assert said in written(tables.profile_summary(image("measured", mode="compiled"), by))
    assert said not in written(tables.profile_summary(image(mode="compiled"), by))


def test_bars_are_as_long_as_the_shares() -> None:
    core, module, legend = written(tables.Bars(image()), 107).splitlines()
    assert core.startswith("core   L") and module.startswith("module L")
    assert len(core) == len(module) == 107
    assert core.count("L") == round(100 * 56 / 79)
    assert module.count("A") == round(100 * 73 / 79) - round(100 * 21 / 79)
    assert legend.split() == ["L", "Linear", "A", "Attention", "C", "Convolution", "N", "Norm", "B", "Embedding"]


def test_letters_of_categories_are_distinct() -> None:
    assert len(set(tables.LETTERS.values())) == len(tables.LETTERS) == 9


def test_what_fits_says_of_how_much() -> None:
    assert tables.fit(image()) == "fits: needs 1.89 kB of 4 kB"


def test_what_does_not_fit_names_the_smallest_gpu_that_does() -> None:
    profile = on(language(), memory_bytes=device.load("a100-80gb").datasheet.memory_bytes)
    h200 = device.load("h200")
    assert tables.fit(profile) == (
        f"does not fit: needs 138 GB of 85.0 GB; the smallest listed GPU that holds it is {h200.title} (150 GB)"
    )
    too_much = language().memory.model_copy(update={"peak": 10**15})
    assert tables.fit(language(memory=too_much)).endswith("needs 1 PB of 4 kB; no listed GPU holds it")


def test_the_reserve_is_said_and_counts_when_a_larger_gpu_is_named() -> None:
    a100, h200 = (device.load(name).datasheet.memory_bytes for name in ("a100-80gb", "h200"))
    facts = language().memory.model_copy(update={"reserve": 10**9, "peak": h200 - 10**8})
    text = tables.fit(on(language(memory=facts), memory_bytes=a100))
    assert "of 85.0 GB, 1 GB of it kept for context and libraries; " in text
    assert device.load("b200").title in text, "an H200 holds the peak but not the reserve"


def measured(**made: Any) -> Profile:
    environment = {"repeats": 5, "median_seconds": 0.08, "iqr_seconds": 0.002, "converged": True, "warmups": 3} | made
    return image("measured").model_copy(update={"environment": Environment.model_validate(environment)})


def test_measured_summary_gives_median_and_spread_and_no_warning_where_they_are_good() -> None:
    text = written(tables.profile_summary(measured()))
    assert "Wall clock, unprofiled: median 80.0 ms of 5 runs, interquartile range 2.00 ms." in text
    assert "WARNING" not in text
    assert "Wall clock" not in written(tables.profile_summary(image()))


def test_doubtful_times_are_warned_of_in_the_summary_and_in_comparisons() -> None:
    noisy, drifting = measured(iqr_seconds=0.0081), measured(converged=False, warmups=10)
    for profile, said in (
        (noisy, "interquartile range is 10 % of the median"),
        (drifting, "in 10 warm-up runs no two"),
    ):
        assert len(tables.warnings(profile)) == 1
        assert f"WARNING: {said}" in written(tables.profile_summary(profile), 120).replace("the inter", "inter")
        assert f"B  WARNING: {said}" in written(compared([image(), profile]), 120).replace("the inter", "inter")


def test_unknown_memory_is_not_called_fitting() -> None:
    profile = on(image(), memory_bytes=None)
    assert tables.fit(profile) == "needs 1.89 kB; the memory of the device is unknown"


def test_backends_and_the_peak_are_named() -> None:
    text = written(tables.profile_summary(image()))
    assert "Attention calls: 14 flash, 1 efficient." in text
    assert "Peak: aten::linear in decode/logits." in text


def test_nothing_unknown_is_hidden() -> None:
    text = written(tables.profile_summary(unknown_time(image())), 120)
    assert cells(text, "decode")[:4] == ["decode", "≥ 70.0 ms", "-", "≥ 4.97 kFLOP"]
    assert "No FLOP formula: aten::mystery[0] (5 times)." in text
    assert "No time: aten::mystery[0] (5 times)." in text
    assert "The time of 1 of 10 operators is unknown" in text
    assert "MFU ≥ 5.0 %" in text


def test_wall_clock_is_shown_where_it_differs() -> None:
    stages = tuple(stage.model_copy(update={"wall_seconds": 0.05}) for stage in image().stages)
    text = written(tables.profile_summary(image("measured").model_copy(update={"stages": stages})))
    assert "Wall clock, unprofiled: 150 ms; the operators add up to 79.0 ms." in text
    assert "150 ms/image" in text


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("profiles", [1, 2, 3, 5])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(width: int, profiles: int) -> None:
    several = [image(batch=i + 1) for i in range(profiles)]
    shown = tables.profile_summary(image()) if profiles == 1 else compared(several)
    text = written(shown, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    if profiles > 1:
        assert text.count("7.97 kFLOP") == profiles


def test_a_pipe_gets_no_escape_codes_and_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in written(tables.profile_summary(image()))
    monkeypatch.setenv("NO_COLOR", "1")
    console = tables.console(io.StringIO())
    console._force_terminal = True
    console.print(tables.Bars(image()))
    assert isinstance(console.file, io.StringIO)
    assert "38;2" not in console.file.getvalue()


def test_compare_gives_ratios_to_the_first() -> None:
    slow = image(attention="baseline")
    slow = slow.model_copy(update={"ops": tuple(o.model_copy(update={"device_seconds": 0.01}) for o in slow.ops)})
    text = written(compared([image(), slow]))
    assert text.startswith("A  parti-toy, flash: fits: needs 1.89 kB of 4 kB\nB  parti-toy, baseline: fits")
    decode = 14 * 10.5 + 14 * 10 + 7 * 10
    assert cells(text, "decode") == [
        "decode",
        "70.0 ms",
        f"{decode:.0f} ms",
        f"{decode / 70:.2f}x",
        f"+{decode - 70:.0f} ms",
    ]
    assert cells(text, "peak in decode") == ["peak in decode", "1.89 kB", "1.89 kB", "1.00x", "0"]


def test_compare_lists_the_biggest_change_first_and_marks_what_is_missing() -> None:
    text = written(compared([image(), language()]))
    rows = [line.split()[0] for line in text.splitlines() if " ms" in line]
    assert rows[:5] == ["all", "decode", "prefill", "detokenize", "text_encoder"]
    assert cells(text, "prefill") == ["prefill", "-", "8.00 ms", "-", "+8.00 ms"]
    assert "≥ 2.59 kFLOP" in text


def test_devices_are_listed_by_memory() -> None:
    text = written(listings.device_list(device.load(name) for name in device.names()))
    names = [line.split()[0] for line in text.splitlines()[2:]]
    assert sorted(names) == device.names()
    sizes = [device.load(name).datasheet.memory_bytes for name in names]
    assert sizes == sorted(sizes)
    assert cells(text, "a100-80gb")[1:3] == ["85.0 GB", "2.04 TB/s"]


def test_models_are_listed_by_family_and_a_paper_stands_beside_the_first_it_describes() -> None:
    rows = [
        {"name": "imagen", "family": "imagen", "params": 3_000_000_000, "paper": "Saharia et al. 2022"},
        {"name": "parti-3b", "family": "parti", "params": 3_750_000_000, "paper": "Yu et al. 2022"},
        {"name": "parti-20b", "family": "parti", "params": 20_512_345_678, "paper": "Yu et al. 2022"},
    ]
    lines = [re.split(r"\s{2,}", line.strip()) for line in written(listings.model_list(rows)).splitlines()[2:8]]
    assert lines == [
        ["imagen"], ["imagen", "3 B", "Saharia et al. 2022"], [""],
        ["parti"], ["parti-3b", "3.75 B", "Yu et al. 2022"], ["parti-20b", "20.5 B"],
    ]  # fmt: skip


def test_the_suite_is_listed_by_family_then_size_in_one_line_per_model_at_100_columns() -> None:
    rows = inventory.models()
    families = list(dict.fromkeys(row["family"] for row in rows))
    assert tuple(families[: len(inventory.STUDY)]) == inventory.STUDY, "those of the study first"
    for family in families:
        members = [row for row in rows if row["family"] == family]
        sized = [row["params"] for row in members if not row["name"].endswith("-tiny")]
        assert sized == sorted(sized) and all(row["name"].endswith("-tiny") for row in members[len(sized) :])
    lines = written(listings.model_list(rows), 100).splitlines()
    assert len(lines) == 4 + len(rows) + 2 * len(families) - 1, "a heading per family, a space between them, a note"
    for row in rows:
        assert sum(line.startswith(f"  {row['name']} ") for line in lines) == 1


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["parti-20b", "llama2-70b", "stable-diffusion-1.5"])
def test_the_first_column_of_a_large_model_is_neither_cut_nor_wrapped(name: str, width: int) -> None:
    profile = simulate(loader.load(name), Run(device="h100-sxm"))
    record, trees = inventory.parts(loader.load(name))
    shown = [
        *(tables.profile_summary(profile, by) for by in ("stage", "category", "module")),
        compared([profile, profile]),
        listings.model(record, trees, 9),
    ]
    names = {stage.name for stage in profile.stages}, views.by_category(profile), views.by_module(profile)
    for text, column in zip(
        (written(one, width) for one in shown), (*names, names[0], [p["name"] for p in record["parts"]]), strict=True
    ):
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        for first in column:
            assert cells(text, first), first


def test_a_model_is_shown_beside_its_published_counts() -> None:
    leaf = {"name": "q", "kind": "Linear", "shape": [6, 6], "params": 36, "repeat": 1, "children": []}
    layers = {"name": "layers", "kind": "Layer", "shape": [], "params": 72, "repeat": 2, "children": [leaf]}
    parts = [
        {"name": "transformer", "params": 205, "published": 200, "source": "the paper"},
        {"name": "upscaler", "params": 1003, "published": None, "source": None},
    ]
    record: dict[str, Any] = {"name": "toy", "title": "A toy", "paper": "Nobody 2024", "parts": parts}
    record |= {"total_params": 1208, "published_total": None}
    text = written(listings.model(record, {"transformer": [layers]}, 9))
    assert "A toy (toy). Nobody 2024" in text
    assert cells(text, "transformer") == ["transformer", "205", "200", "+2.50 %", "the paper"]
    assert cells(text, "upscaler") == ["upscaler", "1,003", "-", "-"]
    assert cells(text, "all") == ["all", "1,208"]
    assert "2 x layers  Layer  72" in text and "q  Linear 6 x 6  36" in text
    total = {"params": 1208, "published": 1200, "source": "an abstract"}
    text = written(listings.model(record | {"published_total": {"of": ["transformer", "upscaler"], **total}}, {}, 9))
    assert cells(text, "all") == ["all", "1,208", "1.20 k", "+0.67 %", "an abstract"]
    total = {"of": ["transformer"], "params": 205, "published": 210, "source": "an abstract"}
    text = written(listings.model(record | {"published_total": total | {"of": ["upscaler", "transformer"]}}, {}, 9))
    assert cells(text, "upscaler + transformer")[-4:] == ["205", "210", "-2.38 %", "an abstract"]
    assert cells(text, "all") == ["all", "1,208"]


def test_convolutions_are_told_apart_by_their_filters() -> None:
    shown = written(tables.profile_summary(simulate(loader.load("stable-diffusion-tiny"), Run())))
    assert "category Convolution, by filter: 3x3 " in shown and ", 1x1 " in shown
    assert "by filter" not in written(tables.profile_summary(simulate(loader.load("llama-tiny"), Run())))
