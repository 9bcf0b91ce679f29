"""One table of several folders: blocks of a study that machines of their own trained."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from made import table as made

from kd.__main__ import main
from kd.core import files
from kd.core.errors import DataError
from kd.measure.frames import frame_files, read_frame
from kd.report.blocks import joined, told

EPYC, XEON = "AMD EPYC 7B13", "Intel Xeon"


def block(folder: Path, rows: pd.DataFrame, device: str = EPYC, **protocol: object) -> Path:
    """Write what `kd collect` leaves, and a page's manifest that tells of the protocol."""
    rows = rows.assign(device=device)
    for frame, name in ((rows, "table"), (made.curves(rows, epochs=3), "curves")):
        for path, content in frame_files(frame, name).items():
            files.write_atomic(folder / path, content)
    if protocol:
        files.write_manifest(folder / "manifests/page.json", {"recipe": {"protocol": protocol}})
    return folder


def of_seeds(*seeds: int) -> pd.DataFrame:
    return made.losses(("wrn-16-2",), ("ce", "kl-tau3", "mse"), seeds)


def table_of(artefacts: dict) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(artefacts["table.parquet"]))


def test_blocks_make_the_table_of_the_whole_study_and_the_processor_is_a_column(tmp_path: Path) -> None:
    blocks = [block(tmp_path / "b", of_seeds(2, 3), XEON), block(tmp_path / "a", of_seeds(0, 1))]
    artefacts, rows = joined(blocks)
    whole = of_seeds(0, 1, 2, 3)
    assert rows["cell"].tolist() == whole["cell"].tolist()
    assert rows["device"].tolist() == [EPYC if seed < 2 else XEON for seed in whole["seed"]]
    pd.testing.assert_frame_equal(table_of(artefacts).drop(columns="device"), whole.drop(columns="device"))
    epochs = pd.read_parquet(io.BytesIO(artefacts["curves.parquet"]))
    assert epochs.groupby("cell", sort=False)["epoch"].agg(list).tolist() == [[1, 2, 3]] * len(whole)
    assert list(told(blocks, rows)) == ["12 networks of 2 folders", f"6 on {EPYC}", f"6 on {XEON}"]


def test_a_block_that_is_lost_costs_its_seeds_alone(tmp_path: Path) -> None:
    rows = joined([block(tmp_path / str(seed), of_seeds(seed)) for seed in (0, 2)])[1]
    assert rows.groupby("objective")["seed"].agg(list).tolist() == [[0, 2]] * 3


def test_blocks_with_other_losses_have_the_columns_of_both(tmp_path: Path) -> None:
    dkd = made.losses(("wrn-16-2",), ("dkd",), (0,))
    rows = joined([block(tmp_path / "a", of_seeds(0)), block(tmp_path / "b", dkd)])[1]
    assert rows.set_index("objective")["rest"].dropna().to_dict() == {"dkd": 8.0}


def test_a_network_of_two_blocks_stands_once_and_with_other_numbers_is_refused(tmp_path: Path) -> None:
    first, same = block(tmp_path / "a", of_seeds(0, 1)), of_seeds(1, 2)
    again = joined([first, block(tmp_path / "b", same.assign(seconds=1.0), XEON)])[1]
    assert again["cell"].tolist() == of_seeds(0, 1, 2)["cell"].tolist()
    assert again.loc[again["seed"] == 1, "device"].eq(EPYC).all()
    changed = same.assign(test_loss=same["test_loss"].where(same["objective"] != "mse", 9.0))
    with pytest.raises(DataError, match=rf"1 networks .*\n  \S+mse\.s1: {first}, {tmp_path}/c"):
        joined([first, block(tmp_path / "c", changed)])


def test_pairs_that_lie_on_two_machines_are_told(tmp_path: Path) -> None:
    rows = of_seeds(0, 1)
    taught = rows[(rows["objective"] == "mse") & (rows["seed"] == 1)]
    blocks = [block(tmp_path / "a", rows.drop(taught.index)), block(tmp_path / "b", taught, XEON)]
    assert list(told(blocks, joined(blocks)[1]))[-1].startswith("pairs of seed 1 lie on two kinds of machine")


def run(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str]:
    code = main(["collect", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_the_verb_joins_tables_that_figures_and_verdict_then_read(tmp_path: Path, capsys) -> None:
    blocks = [block(tmp_path / name, of_seeds(*seeds)) for name, seeds in (("a", range(3)), ("b", range(3, 6)))]
    into = tmp_path / "reports" / "all"
    code, said = run(capsys, *blocks, "--into", into)
    assert (code, said.splitlines()[-1]) == (0, f"{into}/table.parquet")
    assert len(read_frame(into / "table.parquet")) == 18
    assert main(["tables", str(into / "table.parquet")]) == 0
    assert pd.read_csv(into / "means.csv")["n"].tolist() == [6, 6, 6]
    assert run(capsys, *blocks, "--into", into)[0] == 0  # with a block more, the same command


def test_the_verb_says_what_is_wrong_with_a_folder(tmp_path: Path, capsys) -> None:
    a = block(tmp_path / "a/reports/demo", of_seeds(0), name="p", epochs=200, lr=0.1)
    b = block(tmp_path / "b", of_seeds(1), name="p", epochs=200, lr=0.05)
    into = ("--into", tmp_path / "all")
    assert run(capsys, a)[1] == run(capsys, *into)[1]
    assert "folders need --into, and --into needs folders" in run(capsys, a)[1]
    assert f"no table.parquet in it; did you mean {a}" in run(capsys, tmp_path / "a", *into)[1]
    assert "a block is a folder such as reports/demo" in run(capsys, tmp_path, *into)[1]
    assert "protocol p has lr 0.1 in one and 0.05 in the other" in run(capsys, a, b, *into)[1]
    files.write_manifest(a / "manifests/table.json", {"kind": "table"})
    assert f"has the table of a study; name another folder, such as {a}-blocks" in run(capsys, b, "--into", a)[1]
    (b / "table.parquet").write_bytes((b / "table.parquet").read_bytes().replace(b"wrn-16-2", b"wrn-16-4"))
    assert "damaged" in run(capsys, b, *into)[1]
    assert not (tmp_path / "all").exists()
