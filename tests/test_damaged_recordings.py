"""Recordings of Azure, DLRM, openb and LANL as users have them at times: cut short, mixed up, with cells that make no sense.

All files are made up in the formats' shapes. Each fault is one message that names the file and, where there is one, the row.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from placement.errors import ConfigError, PlacementError
from placement.nodes import NodeSpec
from placement.pods import GpuRequest
from placement.resources import CPU, MEMORY, PODS, STORAGE
from simulator.traces.azure import read_azure
from simulator.traces.dlrm import FILE as DLRM
from simulator.traces.dlrm import RDMA, read_dlrm
from simulator.traces.lanl import FILE as LANL
from simulator.traces.lanl import read_failures
from simulator.traces.openb import read_openb
from simulator.traces.sources import open_trace
from simulator.traces.trace import NodeEvent, Trace, TraceError

SIZES = "1,2 a\n2,4 b\n"
BINS = "0 0\n600 1\n1200 1\n"
VMS = "0 a,b,|,a\n300 b\n"
ENDS = "0 U1,C1,|,U0\n300 U1\n"


def azure(folder: Path, *, sizes: str = SIZES, bins: str = BINS, vms: str = VMS, ends: str = ENDS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "flav_map.txt").write_text(sizes)
    (folder / "v1.interval_map.txt").write_text(bins)
    (folder / "v1.dev.txt.gz").write_bytes(gzip.compress(vms.encode()))
    (folder / "v1.dev.c2100000.txt.gz").write_bytes(gzip.compress(ends.encode()))
    return folder


def complaint(read: Callable[[], object], kind: type[PlacementError] = TraceError) -> str:
    with pytest.raises(kind) as caught:
        read()
    assert "Errno" not in str(caught.value)
    return str(caught.value)


def test_azure_as_it_should_be(tmp_path: Path) -> None:
    trace = read_azure(azure(tmp_path))
    assert trace.pods.arrival_s.tolist() == [0, 0, 0, 300]
    assert trace.pods.departure_s.tolist() == [900, -1, 150, 1200]
    assert trace.pods.gang.tolist() == [0, 0, 1, 2], "VMs of one row are a batch, up to a bar"
    assert read_azure(tmp_path, gangs=False).pods.gang.tolist() == [-1] * 4
    assert [trace.specs[c].labels for c in trace.pods.spec] == [(("size", letter),) for letter in "abab"]
    assert trace.specs[0].request == ((CPU, 1000), (MEMORY, 2 * 2**30))
    assert trace.manifest.notes == (
        "durations are bin middles",
        "VMs alive before the window are missing: discard a day of warm-up",
    )


def test_azure_sizes_have_fractions_and_blank_lines_say_nothing(tmp_path: Path) -> None:
    trace = read_azure(azure(tmp_path, sizes="0.5,0.75 a\n\n2,4 b\n", vms=VMS.replace("\n", "\n\n")))
    assert trace.specs[0].request == ((CPU, 500), (MEMORY, 3 * 2**28))
    assert len(trace.pods) == 4


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"vms": ""}, "0 rows of VMs but 2 of durations"),
        ({"vms": "", "ends": ""}, "holds no VM"),
        ({"vms": "0 a,b\n300 b\n"}, "row 1: holds other VMs"),
        ({"ends": ENDS.replace("300", "301")}, "row 2: holds other VMs"),
        ({"vms": VMS + "400 a\n"}, "3 rows of VMs but 2 of durations; files of two windows are mixed up"),
        ({"ends": ENDS.replace("U1", "U7")}, "duration 'U7' is not U<bin> or C<bin>"),
        ({"sizes": "0,4 a\n"}, "row 1: size '0,4' must be above 0"),
        ({"sizes": "1,0 a\n"}, "row 1: size '1,0' must be above 0"),
        ({"vms": VMS.replace("300", "-3")}, "row 2: '-3' is not a time in seconds"),
        (
            {"vms": VMS + "299 a\n", "ends": ENDS + "299 U1\n"},
            "row 3: second 299 is before the second 300 of a row above",
        ),
        ({"vms": VMS.replace("300", "9" * 30), "ends": ENDS.replace("300", "9" * 30)}, "is not a time in seconds"),
        ({"vms": VMS.replace("b", "z")}, "size letter 'z' is not in flav_map.txt"),
        ({"ends": ENDS.replace("U1", "X1")}, "duration 'X1' is not U<bin> or C<bin>"),
        ({"sizes": "nan,4 a\n"}, "row 1: size 'nan,4' must be above 0"),
        ({"sizes": BINS}, "row 1: '0 0' is not '<vCPU>,<GB> <letter>'"),
        ({"bins": BINS + "inf 1\n"}, "v1.interval_map.txt, row 4: 'inf 1'"),
        ({"bins": BINS + "1" + 30 * "0" + " 1\n"}, "v1.interval_map.txt, row 4"),
        ({"bins": BINS + "-600 1\n"}, "v1.interval_map.txt, row 4"),
        ({"bins": SIZES}, "v1.interval_map.txt, row 1"),
    ],
)
def test_azure_files_that_make_no_sense(tmp_path: Path, files: dict[str, str], message: str) -> None:
    folder = azure(tmp_path, **files)
    assert message in complaint(lambda: read_azure(folder))


def test_a_damaged_row_of_azure_is_counted_when_told_to_skip(tmp_path: Path) -> None:
    folder = azure(tmp_path, vms=VMS.replace("300", "-3"))
    assert complaint(lambda: read_azure(folder)).endswith("(--bad-rows=skip of simulate, compare and trace)")
    trace = read_azure(folder, skip_bad_rows=True)
    assert len(trace.pods) == 3
    assert "1 bad rows or VMs skipped" in trace.manifest.notes
    azure(tmp_path, ends=ENDS.replace("300", "-3"))
    assert "1 bad rows or VMs skipped" in read_azure(folder, skip_bad_rows=True).manifest.notes


def test_azure_files_that_cannot_be_read(tmp_path: Path) -> None:
    folder = azure(tmp_path)
    whole = (folder / "v1.dev.txt.gz").read_bytes()
    (folder / "v1.dev.txt.gz").write_bytes(whole[:-12])
    assert "v1.dev.txt.gz: is cut short or not text" in complaint(lambda: read_azure(folder))
    (folder / "v1.dev.txt.gz").write_bytes(b"not gzip at all")
    assert "v1.dev.txt.gz: is cut short or not text" in complaint(lambda: read_azure(folder))
    (folder / "v1.dev.txt.gz").unlink()
    assert "no such file" in complaint(lambda: read_azure(folder), ConfigError)
    file = folder / "flav_map.txt"
    assert "(Not a directory)" in complaint(lambda: read_azure(file))


def test_windows_without_durations_are_not_offered(tmp_path: Path) -> None:
    folder = azure(tmp_path)
    (folder / "v1.train.txt.gz").write_bytes(gzip.compress(VMS.encode()))
    assert complaint(lambda: read_azure(folder, window="v9"), ConfigError).endswith("windows there: v1.dev")
    assert complaint(lambda: read_azure(folder, window="v1.train"), ConfigError).endswith("windows there: v1.dev")


HEAD = (
    "instance_sn,role,app_name,cpu_request,memory_request,gpu_request,"
    "max_instance_per_node,creation_time,deletion_time\n"
)
ROW = "one,HN,app,4,16,1,8,10,20\n"


def dlrm(folder: Path, text: str) -> Path:
    (folder / DLRM).write_bytes(gzip.compress(text.encode()))
    return folder


def test_dlrm_as_it_should_be(tmp_path: Path) -> None:
    trace = read_dlrm(dlrm(tmp_path, HEAD + ROW))
    assert (trace.pods.arrival_s.tolist(), trace.pods.departure_s.tolist()) == ([10], [20])
    (spec,) = trace.specs
    assert spec.request == ((CPU, 4000), (MEMORY, 16 * 2**30))
    assert (spec.gpu, spec.owner, spec.pod_rules.max_per_node) == (GpuRequest(1), "Application/app", 8)
    assert dict(spec.labels) == {"app": "app", "role": "HN"}
    assert trace.manifest.notes == ()


def test_dlrm_instances_are_in_order_and_what_is_not_said_is_for_ever_or_nothing(tmp_path: Path) -> None:
    head = HEAD.strip() + ",disk_request,rdma_request\n"
    rows = [
        "late,CN,a,0.0005,1,,,30,30,0,",
        "there,CN,a,1,0.3,0,-1,,5,0.5,25",
        "stays,CN,b,1,1,0,-1,20,,,",
    ]
    trace = read_dlrm(dlrm(tmp_path, head + "\n".join(rows) + "\n"))
    assert trace.pods.name.tolist() == ["there", "stays", "late"]
    assert trace.pods.arrival_s.tolist() == [0, 20, 30]
    assert trace.pods.departure_s.tolist() == [5, -1, 30]
    there, stays, late = (trace.specs[c] for c in trace.pods.spec)
    assert dict(there.request) == {CPU: 1000, MEMORY: math.ceil(0.3 * 2**30), RDMA: 25, STORAGE: 2**29}
    assert dict(stays.request) == {CPU: 1000, MEMORY: 2**30}
    assert dict(late.request) == {CPU: 1, MEMORY: 2**30}, "rounded up"
    assert [(s.gpu, s.pod_rules.max_per_node) for s in (there, stays, late)] == [(None, 0)] * 3
    assert read_dlrm(dlrm(tmp_path, HEAD + ROW.replace("16,1", "16,64"))).specs[0].gpu == GpuRequest(64)
    assert read_dlrm(dlrm(tmp_path, HEAD + ROW + ROW), skip_bad_rows=True).manifest.notes == ("1 bad rows skipped",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD, "holds no instance"),
        ("", "has no column instance_sn; is it the DLRM trace?"),
        (HEAD.replace("cpu_request", "cpu") + ROW, "has no column cpu_request"),
        (HEAD + ROW.replace("4,16", "nan,16"), "row 2: cpu_request='nan' is not a number >= 0"),
        (HEAD + ROW.replace("4,16", "4,-1"), "row 2: memory_request='-1' is not a number >= 0"),
        (HEAD + ROW.replace("10,20", "20,10"), "row 2: deletion_time=10 precedes creation_time=20"),
        (HEAD + ROW.replace("10,20", "inf,20"), "row 2: time='inf' is not a number"),
        (HEAD + ROW.replace("16,1", "16,65"), "row 2: gpu_request='65' is not a number between 0 and 64"),
        (HEAD + ROW.replace("8,10", "-2,10"), "row 2: max_instance_per_node='-2' is not a number between -1"),
        (HEAD + ROW[:-1] + ",7\n", "row 2: has another number of cells than the header"),
        (HEAD + ROW + ROW, "row 3: instance_sn='one' appears twice"),
        (HEAD + ROW + "two,HN", "row 3: has another number of cells than the header"),
    ],
)
def test_dlrm_files_that_make_no_sense(tmp_path: Path, text: str, message: str) -> None:
    folder = dlrm(tmp_path, text)
    assert message in complaint(lambda: read_dlrm(folder))


def test_dlrm_files_that_cannot_be_read(tmp_path: Path) -> None:
    whole = (dlrm(tmp_path, HEAD + ROW) / DLRM).read_bytes()
    (tmp_path / DLRM).write_bytes(whole[:-12])
    assert f"{DLRM}: cannot be read (Compressed file ended" in complaint(lambda: read_dlrm(tmp_path))
    (tmp_path / DLRM).unlink()
    (tmp_path / DLRM).mkdir()
    assert complaint(lambda: read_dlrm(tmp_path)).endswith(f"{DLRM}: cannot be read (Is a directory); copy it again")


NODE_LIST = "openb_node_list_gpu_node.csv"
POD_LIST = "openb_pod_list_default.csv"
NODES = "sn,cpu_milli,memory_mib,gpu,model\nn1,64000,2048,2,T4\nn0,32000,1024,0,\n"
PODS_HEAD = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,creation_time,deletion_time\n"
SHARE, WHOLE, PLAIN = "share,1000,512,1,500,T4|P100,20,30\n", "whole,2000,256,2,0,,10,10\n", "plain,500,128,,0,,20,25\n"


def openb(folder: Path, pods: str = PODS_HEAD + SHARE + WHOLE + PLAIN, nodes: str = NODES) -> Path:
    (folder / NODE_LIST).write_text(nodes)
    (folder / POD_LIST).write_text(pods)
    return folder


def test_openb_as_it_should_be(tmp_path: Path) -> None:
    trace = read_openb(openb(tmp_path))
    pods = trace.pods
    assert pods.name.tolist() == ["whole", "share", "plain"], "by arrival, then as in the file"
    assert (pods.arrival_s.tolist(), pods.departure_s.tolist()) == ([10, 20, 20], [10, 30, 25])
    whole, share, plain = (trace.specs[c] for c in pods.spec)
    assert (whole.gpu, share.gpu, plain.gpu) == (GpuRequest(2), GpuRequest(1, 500, ("T4", "P100")), None)
    assert share.request == ((CPU, 1000), (MEMORY, 512 * 2**20))
    plain_node, gpu_node = trace.nodes
    assert (plain_node.name, plain_node.num_gpus, plain_node.gpu_model) == ("n0", 0, "")
    assert (gpu_node.num_gpus, gpu_node.gpu_model) == (2, "T4")
    assert dict(gpu_node.allocatable) == {CPU: 64_000, MEMORY: 2**31, PODS: 1001}


def test_openb_without_departures_is_taken_in_the_order_of_the_file(tmp_path: Path) -> None:
    without = "".join(line.rsplit(",", 2)[0] + "\n" for line in (PODS_HEAD, SHARE, WHOLE, PLAIN))
    pods = read_openb(openb(tmp_path, without), departures=False).pods
    assert pods.name.tolist() == ["share", "whole", "plain"]
    assert (pods.arrival_s.tolist(), pods.departure_s.tolist()) == ([0, 1, 2], [-1, -1, -1])
    with pytest.raises(TraceError, match="has no times; read it as openb:DIR:VARIANT,no-departures"):
        read_openb(tmp_path)
    openb(tmp_path, "".join(line.rsplit(",", 1)[0] + "\n" for line in (PODS_HEAD, SHARE)))
    with pytest.raises(TraceError, match="has no times"):
        read_openb(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pods": PODS_HEAD + SHARE + SHARE}, f"{POD_LIST}, row 3: name='share' appears twice"),
        ({"pods": PODS_HEAD + SHARE.replace("20,30", "20,19")}, "row 2: deletion_time=19 precedes creation_time=20"),
        ({"pods": PODS_HEAD + SHARE.replace("20,30", "20,")}, "row 2: deletion_time='' is not a number"),
        ({"pods": PODS_HEAD + SHARE.replace("500", "0")}, "row 2: gpu_milli='0' is not a number between 1 and 1000"),
        ({"pods": PODS_HEAD + SHARE.replace("500", "1001")}, "gpu_milli='1001' is not a number between 1 and 1000"),
        ({"pods": PODS_HEAD + SHARE.replace("1000,512", "-1,512")}, "row 2: cpu_milli='-1' is not a number"),
        ({"pods": PODS_HEAD + SHARE.replace("1000,512", "1000,nan")}, "row 2: memory_mib='nan' is not a number"),
        ({"nodes": NODES + "n1,1,1,0,\n"}, f"{NODE_LIST}, row 4: sn='n1' appears twice"),
        ({"nodes": NODES.replace("2048,2", "2048,x")}, f"{NODE_LIST}, row 2: gpu='x' is not a number"),
    ],
)
def test_openb_files_that_make_no_sense(tmp_path: Path, files: dict[str, str], message: str) -> None:
    folder = openb(tmp_path, **files)
    assert message in complaint(lambda: read_openb(folder))


def test_a_damaged_row_of_openb_is_counted_when_told_to_skip(tmp_path: Path) -> None:
    folder = openb(tmp_path, PODS_HEAD + SHARE + SHARE + PLAIN)
    trace = open_trace(f"openb:{folder}:default", skip_bad_rows=True)
    assert trace.pods.name.tolist() == ["share", "plain"]
    assert trace.manifest.notes == ("1 bad rows skipped",)


def test_damaged_nodes_of_openb_are_left_out_and_counted_when_told_to_skip(tmp_path: Path) -> None:
    nodes = NODES + "n1,1,1,0,\n" + "n2,1,1,x,\n" + "n3,1\n"
    trace = read_openb(openb(tmp_path, nodes=nodes), skip_bad_rows=True)
    assert [node.name for node in trace.nodes] == ["n0", "n1"]
    assert trace.nodes[1].amounts[CPU] == 64_000, "the first of a name"
    assert trace.manifest.notes == ("3 bad rows of nodes skipped",)


FLEET = (NodeSpec("n0", ((CPU, 1000),)), NodeSpec("n1", ((CPU, 1000),)))
OUTAGE = "18,3,6/21/1996 10:20,6/21/1996 10:40\n"


def lanl(folder: Path, text: str) -> Path:
    (folder / LANL).write_bytes(gzip.compress(text.encode()))
    return folder


def failures(folder: Path, *, system: int = 18, skip: bool = False) -> tuple[NodeEvent, ...]:
    return read_failures(folder, FLEET, system=system, length_s=10**6, skip_bad_rows=skip)


def test_lanl_as_it_should_be_and_with_a_bad_row_skipped(tmp_path: Path) -> None:
    head = "System,nodenumz,Prob Started,Prob Fixed\n"
    events = failures(lanl(tmp_path, head + OUTAGE))
    assert [(e.time_s, e.kind, e.node) for e in events] == [(0, "fail", "n1"), (1200, "repair", "n1")]
    lanl(tmp_path, head + OUTAGE + OUTAGE.replace("10:40", "25:99"))
    assert "row 3: time '6/21/1996 25:99' is not M/D/YYYY H:MM" in complaint(lambda: failures(tmp_path))
    assert failures(tmp_path, skip=True) == events


def test_lanl_files_that_make_no_sense(tmp_path: Path) -> None:
    head = "System,nodenumz,Prob Started,Prob Fixed\n"
    lanl(tmp_path, head.replace("Prob Fixed", "Fixed") + OUTAGE)
    assert "has no column Prob Fixed" in complaint(lambda: failures(tmp_path))
    lanl(tmp_path, head + OUTAGE.replace("10:40", "10:00"))
    assert "row 2: fixed '6/21/1996 10:00' before it started" in complaint(lambda: failures(tmp_path))
    whole = (lanl(tmp_path, head + OUTAGE) / LANL).read_bytes()
    (tmp_path / LANL).write_bytes(whole[:-12])
    assert f"{LANL}: cannot be read" in complaint(lambda: failures(tmp_path))
    (tmp_path / LANL).write_bytes(whole)
    with pytest.raises(ConfigError, match="system 99 has no records"):
        failures(tmp_path, system=99)


def test_a_trace_that_is_a_folder_of_a_file_says_so_without_numbers(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PlacementError, match=r"cannot be read \(Not a directory\)"):
        Trace.load(tmp_path / "file" / "trace.ullage")
