"""What a row of a truth table may say, and what is said of one that cannot be read or predicted."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from minimodels.sim.truth_gpus import device_of
from minimodels.sim.validate import COLUMNS, load, validate

GOOD = dict.fromkeys(COLUMNS, "x") | {
    "id": "a", "model": "llama-7b", "phase_or_kernel": "prefill", "gpu": "NVIDIA L40S", "dtype": "fp16", "batch": "1",
    "shape_or_settings": "input 7 tokens", "value": "1", "unit": "ms",
}  # fmt: skip


def table(*changes: dict[str, str]) -> str:
    """A truth table of good rows, each with some cells changed."""
    text = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(GOOD | change for change in changes)
    return text.getvalue()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gpu": "GTX 1080 Ti"}, "no device stands for 'GTX 1080 Ti'"),
        ({"dtype": "int4"}, "dtype 'int4'"),
        ({"model": "gpt-j-6b"}, "'prefill' is not predicted"),
        ({"unit": "tok/s"}, "unit 'tok/s' is not predicted for prefill"),
        ({"shape_or_settings": "input many tokens"}, "cannot read lengths"),
        ({"shape_or_settings": "input 5000 tokens"}, "exceed language_model.context_len"),
        ({"phase_or_kernel": "decode", "unit": "tok/s", "shape_or_settings": "input 5 tokens"}, "cannot read lengths"),
        ({"phase_or_kernel": "RoPE", "batch": "-"}, "the settings lack tokens="),
        (
            {"phase_or_kernel": "RoPE", "batch": "-", "shape_or_settings": "tokens=0"},
            "tokens='0' is not a whole number",
        ),
        ({"phase_or_kernel": "top-k", "batch": "-", "shape_or_settings": "tokens=3"}, "kernel 'top-k'"),
    ],
)
def test_a_row_it_cannot_predict_says_why(change: dict[str, str], said: str) -> None:
    good, row = validate(table({}, change))
    assert good.predicted is not None and good.reason is None
    assert row.predicted is None and said in str(row.reason)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": "0"}, "no number was measured"),
        ({"value": "-3"}, "no number was measured"),
        ({"value": "nan"}, "no number was measured"),
        ({"value": "inf"}, "no number was measured"),
        ({"value": "OOM"}, "no number was measured"),
        ({"value": ""}, "no number was measured"),
        ({"batch": "max"}, "batch 'max' is neither"),
        ({"batch": "1.5"}, "batch '1.5' is neither"),
        ({"batch": "0"}, "batch '0' is neither"),
        ({"batch": "9" * 30}, "is neither a whole number from 1 to 4,194,304"),
        ({"batch": "-"}, "prefill needs a batch"),
    ],
)
def test_a_cell_that_cannot_be_read_leaves_its_row_out_and_no_other(change: dict[str, str], said: str) -> None:
    good, bad = validate(table({}, change | {"id": "b"}), "mine.csv")
    assert good.predicted is not None and bad.predicted is None
    assert bad.reason and said in bad.reason
    assert bad.claimed == ("batch" in change), "a row without a number asks for no prediction"


def test_rows_of_another_length_than_the_header_are_refused() -> None:
    for extra in (",too,much\n", "short,row\n"):
        text = table({}) if extra.startswith("short") else table({}).rstrip("\r\n")
        with pytest.raises(ValueError, match=r"^mine\.csv: row (a|short): it has more or fewer cells"):
            validate(text + extra, "mine.csv")


def test_a_table_without_the_columns_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^mine\.csv: missing columns id, model"):
        validate("name,value\na,1\n", "mine.csv")
    with pytest.raises(ValueError, match=r"^mine\.csv: missing columns id"):
        validate("", "mine.csv")


def test_broken_quotes_are_named_with_their_line() -> None:
    with pytest.raises(ValueError, match=r"^mine\.csv: line 3: "):
        validate(table({}) + '"a"b,1\n', "mine.csv")


def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(table({}), encoding="utf-8-sig")
    (row,) = validate(load(tmp_path / "mine.csv"))
    assert row.predicted is not None


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2", "float8_e4m3fn", "FP8"])
def test_low_precision_is_known_by_the_names_of_its_formats(name: str) -> None:
    product = {"phase_or_kernel": "gemm", "shape_or_settings": "M=77 N=768 K=640", "unit": "us", "dtype": "fp8"}
    prefill = {"dtype": "fp8"}
    usual = validate(table(product, prefill))
    other = validate(table(product | {"dtype": name}, prefill | {"dtype": name}))
    assert [row.predicted for row in other] == [row.predicted for row in usual]
    assert other[0].family == "gemm fp8" and None not in [row.predicted for row in other]


@pytest.mark.parametrize("unit", ["\u00b5s", "\u03bcs"])
def test_microseconds_are_known_by_either_greek_letter(unit: str) -> None:
    first, second = validate(table({"unit": "us"}, {"unit": unit}))
    assert first.predicted == second.predicted is not None


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("H200 SXM5", "h200"),
        ("NVIDIA H200 141GB HBM3e", "h200"),
        ("AMD Instinct MI300X OAM", "mi300x"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
    ],
)
def test_gpus_are_known_by_what_vendors_call_them(name: str, device: str) -> None:
    assert device_of(name) == device


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unit": "ms"}, "unit 'ms' is not predicted for peak memory"),
        ({"dtype": "int4"}, "int4"),
        ({"shape_or_settings": "1001x1001"}, "image_size"),
    ],
)
def test_a_row_about_memory_that_cannot_be_predicted_says_why(change: dict[str, str], said: str) -> None:
    memory = {
        "model": "stable-diffusion-tiny", "phase_or_kernel": "peak memory", "unit": "MiB", "shape_or_settings": "eager",
    }  # fmt: skip
    good, bad, other = validate(table(memory, memory | change, memory | {"model": "gpt-j-6b"}))
    assert good.predicted is not None and good.predicted > 1 and good.family == "peak memory stable-diffusion-tiny"
    assert bad.predicted is None and said in str(bad.reason)
    assert not other.claimed and other.predicted is None
