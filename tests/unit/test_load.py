from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backups.load import Metric, Sample, covered_hours, predict, share_of_now
from backups.platform import Load

NOW = datetime(2026, 3, 10, 22, 10, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

rates = st.floats(0, 1e6)
samples = st.lists(
    st.builds(
        Sample,
        at=st.integers(-60, 40 * 24 * 60).map(lambda minutes: NOW - minutes * MINUTE),
        write_kbps=rates,
        read_kbps=rates,
        write_iops=rates,
        read_iops=rates,
    ),
    max_size=40,
)
measurements = st.none() | st.builds(
    Load, write_kbps=rates, read_kbps=rates, write_iops=rates, read_iops=rates, samples=st.integers(0, 9)
)
metrics = st.sampled_from(Metric)
holds = st.floats(0, 3 * 86_400)


def writes(kbps: float, at: datetime) -> Sample:
    return Sample(at=at, write_kbps=kbps, read_kbps=0, write_iops=0, read_iops=0)


def now_writing(kbps: float) -> Load:
    return Load(write_kbps=kbps, samples=10)


def value(
    history: list[Sample], measured: Load | None, hold_s: float = 600, metric: Metric = Metric.WRITE_KBPS
) -> float:
    return predict(history, measured, metric=metric, now=NOW, hold_s=hold_s).value


def test_a_short_hold_goes_by_what_the_vm_does_now() -> None:
    quiet_at_night = [writes(10, NOW - n * DAY) for n in range(1, 8)]
    assert value(quiet_at_night, now_writing(1000), hold_s=60) > 950


def test_a_long_hold_goes_by_what_the_vm_did_at_those_hours() -> None:
    quiet_at_night = [writes(10, NOW - n * DAY + h * HOUR) for n in range(2, 8) for h in range(12)]
    assert value(quiet_at_night, now_writing(1000), hold_s=12 * 3600) < 150


def test_a_backup_that_is_due_within_the_hold_is_seen_coming() -> None:
    busy_at_midnight = [writes(5000, datetime(2026, 3, day, 0, 30, tzinfo=UTC)) for day in range(1, 10)]
    assert value(busy_at_midnight, now_writing(10), hold_s=3 * 3600) > 1000
    assert value(busy_at_midnight, now_writing(10), hold_s=600) == 10


def test_a_newer_sample_counts_more_than_an_older_one() -> None:
    rising = [writes(0, NOW - 60 * MINUTE), writes(100, NOW)]
    assert 90 < value(rising, None) < 100


def test_a_sample_loses_half_its_weight_in_a_quarter_of_an_hour() -> None:
    assert value([writes(0, NOW - 15 * MINUTE)], now_writing(90)) == pytest.approx(60)


def test_each_day_counts_alike_however_many_samples_it_has() -> None:
    yesterday = [writes(300, NOW - DAY + n * MINUTE) for n in range(12)]
    before = [writes(100, NOW - 2 * DAY)]
    assert value(yesterday + before, None) == 200


def test_without_counters_history_decides_and_says_so() -> None:
    told = predict([writes(70, NOW - DAY)], Load(), metric=Metric.WRITE_KBPS, now=NOW, hold_s=600)
    assert told.value == 70
    assert told.reason == "70.0 KB/s written at these hours of 1 earlier day; nothing could be measured now"


def test_a_new_vm_is_taken_as_it_is_measured() -> None:
    told = predict([], now_writing(70), metric=Metric.WRITE_KBPS, now=NOW, hold_s=86_400)
    assert told.value == 70
    assert told.reason == "70.0 KB/s written now; earlier days tell nothing of these hours"


def test_a_vm_of_which_nothing_is_known_has_no_load_and_a_reason() -> None:
    told = predict([], None, metric=Metric.IOPS, now=NOW, hold_s=600)
    assert told.value == 0
    assert "no load was ever measured" in told.reason


def test_a_vm_that_is_off_writes_nothing_whatever_it_did_before() -> None:
    told = predict([writes(70, NOW - DAY)], None, metric=Metric.WRITE_KBPS, now=NOW, hold_s=600, powered_on=False)
    assert told.value == 0
    assert "powered off" in told.reason


def test_the_reason_tells_both_loads_and_their_weights() -> None:
    told = predict([writes(20, NOW - DAY)], now_writing(100), metric=Metric.WRITE_KBPS, now=NOW, hold_s=3600)
    assert told.reason == (
        "100.0 KB/s written now, 20.0 KB/s written at these hours of 1 earlier day: "
        "72% now, 28% then, for a hold of about 60 min"
    )


def test_what_is_older_than_thirty_days_is_forgotten() -> None:
    assert value([writes(500, NOW - 31 * DAY), writes(10, NOW - DAY)], None) == 10


@pytest.mark.parametrize(("metric", "expected"), [("write_kbps", 1), ("total_kbps", 3), ("iops", 12)])
def test_a_metric_is_writes_or_both_or_operations(metric: str, expected: float) -> None:
    load = Load(write_kbps=1, read_kbps=2, write_iops=4, read_iops=8, samples=1)
    assert value([], load, metric=Metric(metric)) == expected


def test_the_hours_that_a_hold_covers_are_weighed_by_their_share() -> None:
    assert covered_hours(NOW, 2 * 3600) == {22: 3000, 23: 3600, 0: 600}
    assert len(covered_hours(NOW, 9 * 86_400)) == 24


@given(samples, measurements, metrics, holds)
def test_a_prediction_lies_between_the_least_and_the_most_that_was_seen(history, measured, metric, hold_s) -> None:
    seen = [metric.of(load) for load in [*history, *([measured] if measured else [])]] or [0.0]
    predicted = value(history, measured, hold_s, metric)
    assert predicted == 0 or min(seen) * (1 - 1e-9) <= predicted <= max(seen) * (1 + 1e-9)


@given(samples, measurements, metrics, holds, st.sampled_from([0.25, 2.0, 1024.0]))
def test_twice_the_load_predicts_twice_the_load(history, measured, metric, hold_s, factor) -> None:
    def scaled(load):
        rates = ("write_kbps", "read_kbps", "write_iops", "read_iops")
        kept = {"at": load.at} if isinstance(load, Sample) else {"samples": load.samples}
        return type(load)(**{name: getattr(load, name) * factor for name in rates}, **kept)

    more = value([scaled(s) for s in history], measured and scaled(measured), hold_s, metric)
    assert more == pytest.approx(value(history, measured, hold_s, metric) * factor, rel=1e-9)


@given(samples, measurements, metrics, holds, st.randoms())
def test_the_order_of_the_samples_does_not_matter(history, measured, metric, hold_s, chance) -> None:
    shuffled = list(history)
    chance.shuffle(shuffled)
    told = predict(history, measured, metric=metric, now=NOW, hold_s=hold_s)
    assert predict(shuffled, measured, metric=metric, now=NOW, hold_s=hold_s) == told
    assert told.reason
    assert len(told.reason) <= 255


@given(holds, holds)
def test_the_longer_the_hold_the_less_counts_what_is_now(one: float, other: float) -> None:
    shorter, longer = sorted((one, other))
    assert 0 < share_of_now(longer) <= share_of_now(shorter) <= 1
