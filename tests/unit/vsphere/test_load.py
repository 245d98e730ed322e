from typing import Any

from pyVmomi import vim

from backups.platform import Load
from vsphere.load import mean_of

Perf = vim.PerformanceManager
COUNTERS = {179: "write_kbps", 178: "read_kbps"}


def series(counter: int, instance: str, values: str) -> Any:
    return Perf.MetricSeriesCSV(id=Perf.MetricId(counterId=counter, instance=instance), value=values)


def answer(times: str, *values: Any) -> Any:
    return Perf.EntityMetricCSV(entity=vim.VirtualMachine("vm-1"), sampleInfoCSV=times, value=list(values))


def test_disks_are_summed_and_samples_averaged() -> None:
    found = answer("20,t1,20,t2", series(179, "scsi0:0", "10,20"), series(179, "scsi0:1", "30,0"))
    assert mean_of(found, COUNTERS) == Load(write_kbps=30.0, samples=2)


def test_a_missing_sample_counts_as_nothing() -> None:
    assert mean_of(answer("20,t1,20,t2", series(178, "scsi0:0", "-1,8")), COUNTERS).read_kbps == 4.0


def test_without_samples_there_is_no_load() -> None:
    assert mean_of(answer(""), COUNTERS) == Load()


def test_counters_that_were_not_asked_for_are_left_out() -> None:
    assert mean_of(answer("20,t1", series(6, "", "99")), COUNTERS) == Load(samples=1)
