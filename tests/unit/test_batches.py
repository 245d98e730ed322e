from backups.batches import Queued, next_batch


def queued(id_: str, load_kbps: float, vapp: str = "") -> Queued:
    return Queued(id=id_, vapp=vapp, load_kbps=load_kbps)


def test_batch_size_zero_snapshots_everything_together() -> None:
    batch = next_batch([queued("a", 1), queued("b", 2)], 0)
    assert sorted(batch.taken) == ["a", "b"]
    assert batch.left == {}


def test_the_busiest_are_taken_first_and_the_rest_is_told_why_it_waits() -> None:
    batch = next_batch([queued("idle", 1), queued("busy", 9), queued("mid", 5)], 2)
    assert batch.taken == ["busy", "mid"]
    assert "2 at a time" in batch.left["idle"]


def test_a_vapp_is_never_split_over_two_batches() -> None:
    fleet = [queued("web", 9, "shop"), queued("db", 1, "shop"), queued("other", 5)]
    batch = next_batch(fleet, 1)
    assert sorted(batch.taken) == ["db", "web"]
    assert list(batch.left) == ["other"]


def test_repeating_until_nothing_is_left_takes_each_vm_once() -> None:
    fleet = [queued(str(n), n % 7, vapp=str(n % 3)) for n in range(20)]
    taken: list[str] = []
    while rest := [q for q in fleet if q.id not in taken]:
        taken += next_batch(rest, 4).taken
    assert sorted(taken) == sorted(q.id for q in fleet)
