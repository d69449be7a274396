"""Price books: what a file says is what a shape offers and a node costs."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.nodes import NodeSpec
from placement.rates import RATES, Rates
from placement.resources import CPU, MEMORY, PODS
from simulator.cost import DEFAULT_BOOK, PriceBook, Reservation, book_for, parts_usd, read_price_book
from simulator.fleet import Shape
from simulator.traces.trace import Trace, TraceError

GIB = 1 << 30
usd = st.integers(0, 10_000).map(lambda cents: cents / 100)
OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "gpus": st.integers(0, 62),
    "gpu_model": st.sampled_from(["", "T4"]),
    "spot_usd_per_hour": usd,
    "boot_s": st.integers(0, 900),
    "limit": st.integers(1, 50),
    "resource:example.com/fpga": st.integers(0, 9),
}


@st.composite
def books(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows; a cell of a column that need not be filled may be empty, and a column may be left out."""
    columns = draw(st.sets(st.sampled_from(sorted(OPTIONAL))))
    return [
        {
            "name": f"shape-{i}",
            "cores": draw(st.integers(1, 200)) / 2,
            "gib": draw(st.integers(2, 2000)),
            "usd_per_hour": draw(usd),
            **{column: draw(OPTIONAL[column] | st.just("")) for column in sorted(columns)},
        }
        for i in range(draw(st.integers(1, 3)))
    ]


def read(text: str, name: str = "book.csv") -> PriceBook:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text)
        return read_price_book(path)


@settings(deadline=None)
@given(books())
def test_a_shape_offers_and_costs_what_its_row_says_and_the_default_where_that_is_empty(
    rows: list[dict[str, Any]],
) -> None:
    lines = [list(rows[0]), *([str(row[column]) for column in rows[0]] for row in rows)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "book.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(lines)
        book = read_price_book(path)
    assert list(book.shapes) == [row["name"] for row in rows]
    assert book.reservations == {}
    for row in rows:
        shape, filled = book.shapes[row["name"]], {column: cell for column, cell in row.items() if cell != ""}
        amounts = {CPU: int(row["cores"] * 1000) - 380, MEMORY: row["gib"] * GIB - 3 * GIB // 2, PODS: 250}
        if "resource:example.com/fpga" in row:
            amounts["example.com/fpga"] = filled.get("resource:example.com/fpga", 0)
        assert shape == Shape(
            row["name"],
            tuple(sorted(amounts.items())),
            row["usd_per_hour"],
            filled.get("spot_usd_per_hour", 0.0),
            filled.get("gpus", 0),
            filled.get("gpu_model", ""),
            filled.get("boot_s", 60),
            filled.get("limit", 0),
        )


HEAD = "name,cores,gib,usd_per_hour,reserved_usd_per_hour,term_hours,reserved_limit,reserved_owned\n"


@pytest.mark.parametrize(
    ("cells", "reservation"),
    [
        (",,,", None),
        ("0,,,0", None),
        (".5,,,", Reservation(0.5, 8760.0, 0, 0)),
        (".5,100,3,2", Reservation(0.5, 100.0, 3, 2)),
        (",,,2", Reservation(0.0, 8760.0, 0, 2)),
        (",100,,2", Reservation(0.0, 100.0, 0, 2)),
    ],
)
def test_a_row_tells_what_is_reserved_and_what_may_be(cells: str, reservation: Reservation | None) -> None:
    book = read(f"{HEAD}m,8,32,1,{cells}\n")
    assert book.reservations == ({} if reservation is None else {"m": reservation})


def test_a_node_costs_what_its_shape_does_else_its_type_else_its_parts() -> None:
    shape = Shape("sold", ((CPU, 4000),), 2.0, 0.5)
    book = PriceBook({"sold": shape}, by_type={"priced": 3.0})
    amounts = ((CPU, 4000), (MEMORY, 8 * GIB))
    nodes = {
        (name, spot): NodeSpec("n", amounts, num_gpus=2, shape=name, spot=spot)
        for name in ("sold", "priced", "odd")
        for spot in (False, True)
    }
    assert {key: book.usd_per_hour(node) for key, node in nodes.items()} == {
        ("sold", False): 2.0,
        ("sold", True): 0.5,
        ("priced", False): 3.0,
        ("priced", True): 3.0,
        ("odd", False): pytest.approx(4 * RATES.cpu + 8 * RATES.memory_gib + 2 * RATES.gpu),
        ("odd", True): pytest.approx(4 * RATES.spot_cpu + 8 * RATES.spot_memory_gib + 2 * RATES.spot_gpu),
    }
    assert {name for (name, _), node in nodes.items() if book.is_guessed(node)} == {"odd"}
    own = PriceBook(rates=Rates(cpu=1.0))
    assert not own.is_guessed(nodes["odd", False]), "somebody gave the rates"
    assert own.usd_per_hour(nodes["odd", False]) == parts_usd(nodes["odd", False], own.rates)


def test_a_file_goes_before_the_prices_of_a_trace_and_those_before_the_ones_that_ship(tmp_path: Path) -> None:
    mine, path = Shape("mine", ((CPU, 1000),), 1.0), tmp_path / "book.csv"
    path.write_text("name,cores,gib,usd_per_hour\nfile,4,16,1\n")
    trace = Trace.of("t", [], [])
    priced = trace.but(prices=(mine,))
    assert book_for(trace, None) is book_for(None, None) is DEFAULT_BOOK
    assert book_for(priced, None) == PriceBook({"mine": mine})
    assert [list(book_for(one, path).shapes) for one in (None, trace, priced)] == [["file"]] * 3


@pytest.mark.parametrize(
    ("key", "is_refused"),
    [
        ("spotCpu", True),
        ("RAMM", True),
        ("memory", True),
        ("cpuCost", True),
        ("gpuLabel", False),
        ("gpuLabelValue", False),
        ("provider", False),
        ("description", False),
        ("zoneNetworkEgress", False),
    ],
)
def test_a_rate_that_is_misspelt_is_refused_and_what_is_no_rate_is_left(key: str, is_refused: bool) -> None:
    text = json.dumps({"CPU": "0.03", "spotGPU": 0.2, key: "1"})
    if is_refused:
        with pytest.raises(TraceError, match=f"unknown key '{key}'"):
            read(text, "rates.json")
        return
    book = read(text, "rates.json")
    assert (book.rates.cpu, book.rates.spot_gpu) == (0.03, 0.2)
    assert (book.rates.memory_gib, book.rates.gpu) == (RATES.memory_gib, RATES.gpu)


def test_market_prices_hold_for_shapes_that_ship_and_for_types_and_for_nodes_alone() -> None:
    rows = ["InstanceType,MarketPriceHourly,AssetClass", "general-16,0.9,", "mine,2,Node", "mine,2,node", "disk,7,pv"]
    book = read("\n".join(rows))
    assert book.by_type == {"mine": 2.0}
    shipped = DEFAULT_BOOK.shapes
    assert book.shapes["general-16"].usd_per_hour == 0.9
    assert {name: shape for name, shape in book.shapes.items() if name != "general-16"} == {
        name: shape for name, shape in shipped.items() if name != "general-16"
    }
