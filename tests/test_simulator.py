"""The simulator: golden values of the FGD paper, conservation, no look-ahead, repeatability, fleets, traces."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from placement.log import KNOWLEDGE, POD_RELEASED
from placement.nodes import NodeSpec
from placement.owners import HOSTNAME
from placement.playback import verify
from placement.pods import NodeRules, PodRules, PodSpec, PodTerm
from placement.rates import Rates
from placement.resources import CPU, MEMORY
from placement.strategies import STRATEGIES
from simulator.compare import compare
from simulator.comparison import Question
from simulator.cost import PriceBook, parts_usd, read_price_book, shape
from simulator.delivery import DELIVERIES, num_sampled
from simulator.fleet import Elastic
from simulator.measures import measure
from simulator.replay import Interruptions, Replay, ReplayOptions
from simulator.reproduce.fgd import Protocol, differs, experiment, published
from simulator.traces.sources import open_trace
from simulator.traces.synth import Recipe, synthesise
from simulator.traces.trace import NodeEvent, Trace, TraceError

SMALL = Recipe(seed=3, days=0.3, gpu_nodes=4, small_gpu_nodes=4, cpu_nodes=3, owners=20, load=1.2)
PUBLISHED = ("dotprod", "clustering", "packing", "bestfit", "fgd")
"""Policies in the artifact of USENIX ATC'23."""


@pytest.fixture(scope="module")
def small() -> Trace:
    return synthesise(SMALL)


@pytest.fixture(scope="module")
def protocol(traces: Path) -> Protocol:
    return Protocol.load(traces / "openb", "default")


@pytest.mark.parametrize("policy", PUBLISHED)
def test_the_fgd_papers_run_is_repeated_to_the_last_digit(protocol: Protocol, traces: Path, policy: str) -> None:
    ours = experiment(protocol, policy, 42)
    allocation, fragments = (published(traces / "openb", what) for what in ("allocation", "fragmentation"))
    assert differs(ours, allocation["default", policy, 42], fragments["default", policy, 42]) is None


def test_priced_places_more_than_fgd(protocol: Protocol, traces: Path) -> None:
    fgd = published(traces / "openb", "allocation")["default", "fgd", 42]
    assert experiment(protocol, "priced", 42).allocation[-1] > fgd[-1]


@pytest.mark.parametrize("strategy", ["kube-default", "best-fit", "atc23-fgd", "priced", "random"])
def test_a_replay_loses_nothing_and_its_log_replays(small: Trace, strategy: str) -> None:
    outcome = Replay(small, STRATEGIES[strategy], ReplayOptions(seed=1)).run()
    assert outcome.num_pods == len(small.pods)
    assert outcome.num_placed + sum(outcome.unplaced.values()) == outcome.num_pods
    assert list(verify(outcome.log, [STRATEGIES[strategy]])) == []


def test_the_same_seed_gives_the_same_report_whatever_the_jobs(tmp_path: Path) -> None:
    synthesise(SMALL).save(tmp_path / "t.ullage")
    question = Question((str(tmp_path / "t.ullage"),), ("kube-default", "priced"), seeds=(0, 1))
    documents = []
    for jobs in (1, 2):
        made = compare(question, jobs=jobs).document()
        documents.append(json.dumps({k: v for k, v in made.items() if k not in ("timing", "command")}))
    assert documents[0] == documents[1]


def test_finished_cells_are_kept_and_not_computed_again(tmp_path: Path) -> None:
    synthesise(SMALL).save(tmp_path / "t.ullage")
    question = Question((str(tmp_path / "t.ullage"),), ("best-fit",), seeds=(0,))
    first = compare(question, jobs=1, keep=tmp_path / "cells")
    (kept,) = (tmp_path / "cells").glob("*.json")
    marked = {**json.loads(kept.read_text()), "log_digest": "kept"}
    kept.write_text(json.dumps(marked))
    again = compare(question, jobs=1, keep=tmp_path / "cells")
    assert first.rows[0]["log_digest"] != again.rows[0]["log_digest"] == "kept"
    kept.write_text("{cut short")
    assert compare(question, jobs=1, keep=tmp_path / "cells").rows[0]["log_digest"] == first.rows[0]["log_digest"]


def test_node_failures_evict_and_every_pod_comes_back(small: Trace) -> None:
    times = small.pods.arrival_s
    events = []
    for i, node in enumerate(small.nodes[:5]):
        at = int(times[len(times) // 2]) + 10 * i
        events += [NodeEvent(at, "fail", node.name), NodeEvent(at + 600, "repair", node.name)]
    trace = small.but(failures=tuple(sorted(events)))
    outcome = Replay(trace, STRATEGIES["best-fit"], ReplayOptions()).run()
    assert outcome.num_evictions > 0
    assert outcome.lost_pod_s > 0
    assert outcome.num_placed + sum(outcome.unplaced.values()) == outcome.num_pods


def test_an_elastic_fleet_grows_shrinks_and_is_paid_for() -> None:
    pods = [(f"p{i}", PodSpec(((CPU, 4000), (MEMORY, 4 << 30))), 60 * i, 60 * i + 900) for i in range(60)]
    trace = Trace.of("t", [], pods)
    fleet = Elastic((shape("s", 16, 64),), idle_s=120)
    outcome = Replay(trace, STRATEGIES["best-fit"], ReplayOptions(elastic=fleet)).run()
    assert outcome.num_placed == 60
    assert outcome.timeline.series[-1].num_nodes < max(s.num_nodes for s in outcome.timeline.series)
    metrics = measure(outcome, trace, PriceBook({"s": shape("s", 16, 64)}))["metrics"]
    assert metrics["usd"] == pytest.approx(metrics["node_hours"] * shape("s", 16, 64).usd_per_hour, rel=1e-4)
    assert outcome.pending_s[0] == 70  # one scan of 10 s, then 60 s of boot


def test_spot_interruptions_evict_and_nothing_is_lost() -> None:
    pods = [(f"p{i}", PodSpec(((CPU, 4000),)), 60 * i, 60 * i + 7200) for i in range(80)]
    trace = Trace.of("t", [], pods)
    options = ReplayOptions(
        elastic=Elastic((shape("s", 16, 64),), spot_share=0.5), spot=Interruptions(per_node_hour=0.5), seed=4
    )
    outcome = Replay(trace, STRATEGIES["best-fit"], options).run()
    assert outcome.num_evictions > 0
    assert outcome.num_placed == 80


@pytest.mark.parametrize("delivery", sorted(DELIVERIES))
def test_every_delivery_keeps_the_books(small: Trace, delivery: str) -> None:
    outcome = Replay(small, STRATEGIES["best-fit"], ReplayOptions(delivery=DELIVERIES[delivery], seed=1)).run()
    assert outcome.num_placed + sum(outcome.unplaced.values()) == outcome.num_pods


@pytest.mark.parametrize(
    ("nodes", "sampled"), [(50, 50), (99, 99), (1000, 420), (2000, 680), (5000, 500), (15000, 750)]
)
def test_nodes_are_sampled_as_kube_scheduler_samples(nodes: int, sampled: int) -> None:
    assert num_sampled(nodes) == sampled


def test_higher_priority_preempts_the_least_important() -> None:
    node = NodeSpec("n", ((CPU, 4000),))
    low, high = PodSpec(((CPU, 3000),)), PodSpec(((CPU, 3000),), priority=10)
    trace = Trace.of("t", [node], [("a", low, 0, 1000), ("b", high, 10, 500)])
    outcome = Replay(trace, STRATEGIES["best-fit"], ReplayOptions()).run()
    assert outcome.num_preemptions == 1
    assert outcome.pending_s.tolist() == [0, 0]
    assert outcome.num_evictions == 1


def test_a_trace_survives_saving_with_every_rule(tmp_path: Path) -> None:
    trace = synthesise(replace(SMALL, usage=True))
    trace.save(tmp_path / "t.ullage")
    again = Trace.load(tmp_path / "t.ullage")
    assert again.digest == trace.digest
    assert again.specs == trace.specs
    assert again.nodes == trace.nodes
    trace.save(tmp_path / "u.ullage")
    assert (tmp_path / "t.ullage").read_bytes() == (tmp_path / "u.ullage").read_bytes()


def test_the_bundled_trace_is_what_its_seed_makes() -> None:
    recipe = Recipe(seed=7, days=1.5, load=1.15, gpu_nodes=24, small_gpu_nodes=16, cpu_nodes=16)
    assert replace(synthesise(recipe), manifest=open_trace("demo").manifest).digest == open_trace("demo").digest


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_trace_is_one_clear_error(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "t.ullage"
    if not path.exists():
        synthesise(replace(SMALL, days=0.05)).save(path)
    raw = bytearray(path.read_bytes())
    cut = data.draw(st.integers(0, len(raw) - 30))
    (tmp_path / "cut.ullage").write_bytes(raw[:cut])
    with pytest.raises(TraceError, match="cut"):
        Trace.load(tmp_path / "cut.ullage")


def test_a_trace_that_was_packed_tighter_is_read_and_one_clear_error_when_damaged(tmp_path: Path) -> None:
    trace, path = synthesise(replace(SMALL, days=0.05)), tmp_path / "t.ullage"
    trace.save(path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "tight", "w", zipfile.ZIP_DEFLATED) as tight:
        for part in plain.namelist():
            tight.writestr(part, plain.read(part))
    assert Trace.load(tmp_path / "tight").digest == trace.digest
    data = bytearray((tmp_path / "tight").read_bytes())
    data[data.index(b"manifest.json") + len(b"manifest.json")] = 7  # of no packing that there is
    path.write_bytes(data)
    with pytest.raises(TraceError, match="cut short"):
        Trace.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("departure", "precedes arrival_s"),
        ("twice", "appears twice"),
        ("order", "not in order"),
        ("class", "class that is not there"),
    ],
)
def test_a_trace_that_contradicts_itself_is_refused(small: Trace, change: str, message: str) -> None:
    pods = small.pods
    name, spec, departure, arrival = pods.name.copy(), pods.spec.copy(), pods.departure_s.copy(), pods.arrival_s.copy()
    if change == "departure":
        departure[5] = arrival[5] - 1
    elif change == "twice":
        name[1] = name[0]
    elif change == "order":
        arrival[-1] = arrival[0]
        departure[-1] = arrival[0] + 10**9
    else:
        spec[0] = 999
    with pytest.raises(TraceError, match=message):
        small.but(pods=replace(pods, name=name, spec=spec, departure_s=departure, arrival_s=arrival)).check()


RESERVED = "name,cores,gib,usd_per_hour,reserved_usd_per_hour,term_hours,reserved_limit,reserved_owned"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("b.csv", "foo,bar\n1,2\n", "has no column name"),
        ("b.csv", "name,cores,gib,usd_per_hour\na,4,16,1\na,8,16,1\n", "row 3: shape 'a' appears twice"),
        ("b.csv", "name,cores,gib,usd_per_hour\n", "holds no shapes"),
        ("b.csv", "name,cores,gib,usd_per_hour\na,4,16,nan\n", "row 2: usd_per_hour='nan' must be a number >= 0"),
        ("b.csv", "name,cores,gib,usd_per_hour\na,4,16,1,2\n", "row 2: has another number of cells"),
        ("b.csv", "name,cores,gib,usd_per_hour\na,4\n", "row 2: has another number of cells"),
        ("b.csv", "name,cores,gib,usd_per_hour\na,0.3,64,1\n", "row 2: cores='0.3' leaves pods nothing"),
        ("b.csv", "name,cores,gib,usd_per_hour\n\na,4,1,1\n", "row 3: gib='1' leaves pods nothing"),
        ("b.csv", "name,cores,gib,usd_per_hour\na,1e9,64,1\n", "row 2: cores='1e9' must be a number >= 0 and below"),
        ("b.csv", "name,cores,gib,usd_per_hour,gpus\na,4,16,1,1.5\n", "row 2: gpus='1.5' must be a whole number"),
        (
            "b.csv",
            "name,cores,gib,usd_per_hour,gpus\na,4,16,1,64\n",
            "row 2: gpus='64' must be a number >= 0 and below",
        ),
        ("b.csv", "name,cores,gib,usd_per_hour,boot_s\na,4,16,1,0.5\n", "row 2: boot_s='0.5' must be a whole number"),
        ("b.csv", "name,cores,gib,usd_per_hour,limit\na,4,16,1,1.5\n", "row 2: limit='1.5' must be a whole number"),
        ("b.csv", "name,cores,gib,usd_per_hour,resource:cpu\na,4,16,1,5\n", "column 'resource:cpu' .* give cores"),
        ("b.csv", "name,cores,gib,usd_per_hour,resource:\na,4,16,1,5\n", "column 'resource:' cannot be read"),
        ("b.csv", "name,cores,gib,usd_per_hour,limit\na,4,16,1,0\n", "row 2: limit must be 1 or more; leave it empty"),
        ("b.csv", f"{RESERVED}\na,4,16,1,.5,0,,\n", "row 2: term_hours must be above 0; leave it empty"),
        ("b.csv", f"{RESERVED}\na,4,16,1,.5,,0,\n", "row 2: reserved_limit must be above 0; leave it empty"),
        ("b.csv", f"{RESERVED}\na,4,16,1,,100,,\n", "row 2: has term_hours and no reserved_usd_per_hour"),
        ("b.csv", f"{RESERVED}\na,4,16,1,,,3,\n", "row 2: has reserved_limit and no reserved_usd_per_hour"),
        ("b.csv", f"{RESERVED}\na,4,16,1,,,,1.7\n", "row 2: reserved_limit and reserved_owned are whole numbers"),
        ("b.csv", f"name,cores,gib,usd_per_hour\n{'a' * 200_000},4,16,1\n", "row 2: cannot be read .field larger"),
        ("b.csv", "MarketPriceHourly,InstanceType\n1\n", "row 2: has another number of cells"),
        ("b.csv", "InstanceType,MarketPriceHourly\nx,1,2\n", "row 2: has another number of cells"),
        ("b.csv", "InstanceType,MarketPriceHourly\nx,1\nx,2\n", "row 3: instance type 'x' has two prices"),
        (
            "b.csv",
            "name,cores,gib,usd_per_hour,spot_usd_per_hours\na,4,16,1,.2\n",
            "b.csv: unknown column 'spot_usd_per_hours'; did you mean 'spot_usd_per_hour'",
        ),
        ("b.csv", "name,cores,gib,usd_per_hour,\na,4,16,1,\n", "unknown column ''; known: boot_s, cores"),
        ("b.csv", "name,cores,gib,usd_per_hour,usd_per_hour\na,4,16,1,2\n", "column 'usd_per_hour' is there twice"),
        ("b.csv", "InstanceType,MarketPriceHourly,Assetclass\nx,1,pv\n", "'Assetclass'; did you mean 'AssetClass'"),
        ("b.json", '{"CPU": 1, "SpotCPU": 1}', "b.json: unknown key 'SpotCPU'; did you mean 'spotCPU'"),
        ("b.json", '{"CPU": 1, "memory": 1}', "unknown key 'memory'; known: CPU, GPU, RAM"),
        ("b.json", '{"CPU": "NaN"}', "CPU is 'NaN', must be a number"),
        ("b.json", '{"cpu": 1}', "names none of CPU"),
        ("b.json", "{", "is not JSON"),
    ],
)
def test_a_price_book_that_makes_no_sense_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TraceError, match=message):
        read_price_book(tmp_path / name)


def test_machines_of_broken_sizes_keep_what_they_have(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("name,cores,gib,usd_per_hour\na,0.5,15.25,1\n")
    sold = dict(read_price_book(tmp_path / "b.csv").shapes["a"].allocatable)
    assert (sold[CPU], sold[MEMORY]) == (500 - 380, int(13.75 * 2**30))


def test_a_node_that_the_price_book_does_not_know_costs_the_sum_of_its_parts_beside_one_that_it_knows() -> None:
    amounts = ((CPU, 4000), (MEMORY, 16 << 30))
    nodes = [NodeSpec("known", amounts, shape="m"), NodeSpec("plain", amounts), NodeSpec("other", amounts, shape="x")]
    trace = Trace.of(
        "mixed", nodes, [("p", PodSpec(((CPU, 1000),)), 0, 7200), ("q", PodSpec(((CPU, 1000),)), 3600, -1)]
    )
    book = PriceBook({"m": shape("m", 4, 16, rates=Rates(cpu=1.0))})
    metrics = measure(Replay(trace, STRATEGIES["best-fit"]).run(), trace, book)["metrics"]
    assert metrics["usd"] == pytest.approx(book.shapes["m"].usd_per_hour + 2 * parts_usd(nodes[1], Rates()), abs=1e-5)
    assert metrics["node_hours"] == 3.0


def test_prices_come_from_opencosts_own_files(tmp_path: Path) -> None:
    rates = tmp_path / "default.json"
    rates.write_text(
        '{"provider": "custom", "CPU": "0.02", "RAM": "0.001", "GPU": "1.5", "spotGPU": "0.5", '
        '"storage": "0.00005", "zoneNetworkEgress": "0.01", "gpuLabel": "gpu", "spotLabel": "spot"}'
    )
    sold = read_price_book(rates).shapes["gpu-4"]
    assert sold.usd_per_hour == pytest.approx(48 * 0.02 + 192 * 0.001 + 4 * 1.5)
    assert sold.spot_usd_per_hour == pytest.approx(48 * 0.006655 + 192 * 0.000892 + 4 * 0.5, abs=1e-3)
    prices = tmp_path / "prices.csv"
    prices.write_text(
        "EndTimestamp,InstanceID,Region,AssetClass,InstanceIDField,InstanceType,MarketPriceHourly,Version\n"
        "2030-01-01,,x,node,,m5.large,0.096,v1\n2030-01-01,,x,pv,,disk,0.1,v1\n2030-01-01,,x,node,,general-16,0.5,v1\n"
    )
    book = read_price_book(prices)
    assert book.usd_per_hour(NodeSpec("n", ((CPU, 2000),), shape="m5.large")) == 0.096
    assert book.usd_per_hour(book.shapes["general-16"].node("n")) == 0.5


def test_orders_of_another_variant_are_refused(protocol: Protocol, traces: Path) -> None:
    other = replace(protocol, arrivals=Protocol.load(traces / "openb", "cpu050").arrivals)
    with pytest.raises(TraceError, match="mixed up"):
        other.for_seed(42)


def test_no_node_is_bought_for_a_pod_that_no_shape_holds() -> None:
    elsewhere = PodSpec(((CPU, 1000),), node_rules=NodeRules(node_selector=(("zone", "mars"),)))
    alone = PodSpec(((CPU, 1000),), owner="a", pod_rules=PodRules(anti_affinity=(PodTerm(HOSTNAME, ()),)))
    pods = [("lost", elsewhere, 0, 5000), ("one", alone, 0, 5000), ("two", alone, 0, 5000)]
    pods.append(("huge", PodSpec(((CPU, 17_000),)), 0, 5000))
    fleet = Elastic((shape("s", 16, 64),))
    reasons = {"no shape: Insufficient cpu": 1, "no shape: a node rule (selector, taint, device model)": 1}
    for end_s in (4000, -1):  # while there are nodes, and when all have gone
        options = ReplayOptions(elastic=fleet, end_s=end_s)
        outcome = Replay(Trace.of("t", [], pods), STRATEGIES["best-fit"], options).run()
        assert outcome.num_placed == 2
        assert len(outcome.node_names) == 2
        assert outcome.unplaced == reasons


def test_a_price_book_offers_other_resources(tmp_path: Path) -> None:
    book = read_price_book(Path(__file__).parent.parent / "simulator" / "samples" / "dlrm-shapes.csv")
    assert book.shapes["gpu-8"].node("n").amounts["ullage.dev/rdma-percent"] == 400
    assert book.shapes["gpu-8"].node("n").num_gpus == 8


def test_pods_that_wait_for_a_booting_node_are_bought_for_once() -> None:
    pods = [(f"p{i}", PodSpec(((CPU, 4000),)), 0, 5000) for i in range(8)]
    options = ReplayOptions(elastic=Elastic((shape("s", 16, 64),)), end_s=1000)
    outcome = Replay(Trace.of("t", [], pods), STRATEGIES["best-fit"], options).run()
    assert outcome.num_placed == 8
    assert len(outcome.node_names) == 3  # three pods a node


def test_a_replay_learns_that_pods_leave_when_the_first_one_does(small: Trace) -> None:
    trace = small
    staying = Replay(trace, STRATEGIES["priced"], ReplayOptions(departures=False)).run()
    outcome = Replay(trace, STRATEGIES["priced"]).run()
    learned = [[e for e in o.log if e.kind == KNOWLEDGE and e.detail.workload.kinds] for o in (staying, outcome)]
    assert learned[0]
    assert not any(event.detail.workload.leaving for event in learned[0])
    first_end = next(e.time_s for e in outcome.log if e.kind == POD_RELEASED)
    for event in learned[1]:
        if event.time_s != first_end:
            assert event.detail.workload.leaving == (event.time_s > first_end)
    assert any(event.detail.workload.leaving for event in learned[1])
    assert list(verify(outcome.log, [STRATEGIES["priced"]])) == []
