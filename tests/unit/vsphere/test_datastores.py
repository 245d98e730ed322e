from typing import Any

from pyVmomi import vim

from vsphere.datastores import delta_bytes, worst_latencies

Perf = vim.PerformanceManager
Layout = vim.vm.FileLayoutEx
READ, WRITE = 264, 265


def host(name: str, *series: tuple[int, str, str]) -> Any:
    value = [Perf.MetricSeriesCSV(id=Perf.MetricId(counterId=c, instance=i), value=v) for c, i, v in series]
    return Perf.EntityMetricCSV(entity=vim.HostSystem(name), sampleInfoCSV="20,t1,20,t2", value=value)


def test_a_datastores_latency_is_the_mean_of_reads_and_writes() -> None:
    assert worst_latencies([host("host-1", (READ, "uuid-1", "10,30"), (WRITE, "uuid-1", "4,4"))]) == {"uuid-1": 12.0}


def test_a_direction_in_which_nothing_went_says_nothing() -> None:
    assert worst_latencies([host("host-1", (READ, "uuid-1", "10,30"), (WRITE, "uuid-1", "0,0"))]) == {"uuid-1": 20.0}
    assert worst_latencies([host("host-1", (READ, "uuid-1", "0,0"), (WRITE, "uuid-1", "0,0"))]) == {"uuid-1": 0.0}


def test_the_host_that_suffers_most_counts() -> None:
    hosts = [
        host("host-1", (READ, "uuid-1", "2,2")),
        host("host-2", (READ, "uuid-1", "50,50"), (READ, "uuid-2", "1,1")),
    ]
    assert worst_latencies(hosts) == {"uuid-1": 50.0, "uuid-2": 1.0}


def test_a_missing_sample_is_left_out_and_without_any_nothing_is_known() -> None:
    assert worst_latencies([host("host-1", (READ, "uuid-1", "-1,30"), (READ, "uuid-2", "-1,-1"))]) == {"uuid-1": 30.0}


def layout(files: dict[int, int], current: list[list[int]], *snapshots: list[list[int]]) -> Any:
    def disks(chain: list[list[int]]) -> Any:
        return [Layout.DiskLayout(key=2000, chain=[Layout.DiskUnit(fileKey=keys) for keys in chain])]

    return Layout(
        file=[Layout.FileInfo(key=key, name=str(key), type="diskExtent", size=size) for key, size in files.items()],
        disk=disks(current),
        snapshot=[Layout.SnapshotLayout(key=vim.vm.Snapshot("s"), dataKey=99, disk=disks(c)) for c in snapshots],
    )


def test_the_growth_is_what_lies_above_the_oldest_snapshot_with_descriptors() -> None:
    files = {1: 1, 2: 1000, 3: 2, 4: 200, 5: 3, 6: 300}
    taken = layout(files, [[1, 2], [3, 4], [5, 6]], [[1, 2]], [[1, 2], [3, 4]])
    assert delta_bytes(taken) == 2 + 200 + 3 + 300


def test_what_a_linked_clone_stands_on_is_no_growth() -> None:
    files = {1: 1000, 2: 200, 3: 30}
    assert delta_bytes(layout(files, [[1], [2], [3]], [[1], [2]])) == 30
    assert delta_bytes(layout(files, [[1], [2]])) == 0
