"""What only an S3 repository can meet: lost answers, wrong keys, a bucket that went away, a cache that rotted."""

import os
from dataclasses import replace

import pytest

from backups.archive import gc, s3, verify
from backups.archive.addresses import create_store, open_store, s3_place
from backups.archive.s3 import Credentials, Place, S3Store
from backups.archive.store import FolderStore
from backups.errors import Conflict, HotfirstError, InvalidRequest, RepositoryUnavailable
from tests.unit.archive import failing_proxy, s3_server
from tests.unit.archive.disks import MIB, Disk, archive, restored

NAME = "tenants/t/packs/ab/x"


@pytest.fixture
def bucket(s3_place, s3_credentials, tmp_path) -> S3Store:
    return S3Store.create(s3_place, s3_credentials, cache=tmp_path / "cache")


@pytest.fixture
def impatient(monkeypatch):
    """So that what cannot be reached is given up at once."""
    monkeypatch.setattr(s3, "RETRIES", {**s3.RETRIES, "max_retries": 0})
    monkeypatch.setattr(s3, "TRIES", 1)


def test_a_repository_is_made_once(s3_place, s3_credentials, tmp_path):
    S3Store.create(s3_place, s3_credentials, cache=tmp_path).put(NAME, b"1")
    assert S3Store.create(s3_place, s3_credentials, cache=tmp_path).get(NAME) == b"1"


def test_a_prefix_with_other_objects_is_not_made_a_repository(s3_place, s3_credentials, bucket, tmp_path):
    bucket.put("thesis.txt", b"x")
    bucket.delete("repository.json")
    with pytest.raises(RepositoryUnavailable, match="other objects"):
        S3Store.create(s3_place, s3_credentials, cache=tmp_path)


def test_what_is_no_repository_is_refused_with_advice(s3_place, s3_credentials):
    with pytest.raises(RepositoryUnavailable, match="is not a repository"):
        S3Store(s3_place, s3_credentials)


@pytest.mark.parametrize("key", ["access_key_id", "secret_access_key"])
def test_a_wrong_access_key_is_told_apart(s3_place, s3_credentials, bucket, key):
    with pytest.raises(RepositoryUnavailable, match="refused the access key"):
        S3Store(s3_place, replace(s3_credentials, **{key: "wrong"}))


def test_a_bucket_that_is_not_there_is_named(s3_place, s3_credentials):
    with pytest.raises(RepositoryUnavailable, match=r"no-such-bucket"):
        S3Store(replace(s3_place, bucket="no-such-bucket"), s3_credentials)


def test_a_service_that_does_not_answer_is_unavailable(s3_place, s3_credentials, impatient):
    with pytest.raises(RepositoryUnavailable, match="cannot be reached"):
        S3Store(replace(s3_place, endpoint="http://127.0.0.1:1"), s3_credentials)


def test_a_prefix_that_was_emptied_is_unavailable_and_not_damaged(bucket, alice, disk):
    archive(bucket, alice, disk, "a1")
    for stored in list(bucket.list("")):
        bucket.delete(stored.name)
    with pytest.raises(RepositoryUnavailable, match="is not a repository"):
        restored(bucket, alice, "a1")


def test_the_cache_spares_requests_and_is_not_believed_when_it_rots(bucket, alice, disk, tmp_path):
    archive(bucket, alice, disk, "a1")
    restored(bucket, alice, "a1")
    cached = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(cached) == 1
    for content in (b"", os.urandom(1000), cached[0].read_bytes()[:-1]):
        cached[0].write_bytes(content)
        assert restored(bucket, alice, "a1") == disk.content
    cached[0].unlink()
    assert restored(bucket, alice, "a1") == disk.content
    assert cached[0].exists()


def test_a_host_that_cannot_keep_a_cache_works_without(s3_place, s3_credentials, bucket, alice, disk, tmp_path):
    (tmp_path / "file").write_text("no folder")
    uncached = S3Store(s3_place, s3_credentials, cache=tmp_path / "file")
    archive(uncached, alice, disk, "a1")
    assert restored(uncached, alice, "a1") == disk.content


def test_a_fork_of_a_process_that_used_it_is_told_so_and_does_not_hang(bucket):
    """As multiprocessing would make it; its other half goes on."""
    bucket.put(NAME, b"1")
    child = os.fork()
    if not child:
        try:
            bucket.get(NAME)
        except RepositoryUnavailable as error:
            os._exit(7 if "start it by itself" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert bucket.get(NAME) == b"1"


def test_a_scrub_reads_the_bucket_and_not_the_cache(bucket, alice, disk):
    archive(bucket, alice, disk, "a1")
    restored(bucket, alice, "a1")
    (name,) = [stored.name for stored in bucket.list("tenants/alice/index/")]
    content = bytearray(bucket.get(name))
    content[10] ^= 1
    bucket.delete(name)
    bucket.put(name, content)
    assert [damage.name for damage in verify.scrub(bucket, "alice").damages] == [name]


@pytest.mark.parametrize("seed", range(2))
def test_when_a_fifth_of_all_calls_fails_nothing_is_damaged(s3_place, s3_credentials, bucket, alice, tmp_path, seed):
    """Every call succeeds or says what is wrong; every archive that is then seen restores exactly."""
    disk, contents, told = Disk(4 * MIB), dict[str, bytes](), []
    with failing_proxy.before(s3_place.endpoint, seed) as proxy:
        weak = S3Store(replace(s3_place, endpoint=proxy.endpoint), s3_credentials, cache=tmp_path / "weak")
        for number in range(3):
            disk.scribble(number * MIB // 2, MIB)
            contents[f"a{number}"] = bytes(disk.content)
            try:
                archive(weak, alice, disk, f"a{number}")
                assert restored(weak, alice, f"a{number}") == disk.content
                gc.collect(weak, "alice", alice, grace_s=0)
            except HotfirstError as error:
                told.append(error)
        assert proxy.seen.total() - proxy.seen["served"] > 5
    assert len(told) < 2
    seen = [stored.name.rpartition("/")[2] for stored in bucket.list("tenants/alice/archives/")]
    assert len(seen) >= 2
    for archive_id in seen:
        assert restored(bucket, alice, archive_id) == contents[archive_id]
    assert not verify.scrub(bucket, "alice").damages


def test_an_upload_whose_answer_was_lost_is_no_conflict(s3_place, s3_credentials, bucket, tmp_path):
    with failing_proxy.before(s3_place.endpoint, 1) as proxy:
        weak = S3Store(replace(s3_place, endpoint=proxy.endpoint), s3_credentials, cache=tmp_path / "weak")
        proxy.share = 0.5
        for number in range(20):
            weak.put(f"tenants/t/packs/{number}", b"mine %d" % number)
        proxy.share = 0
        with pytest.raises(Conflict):
            weak.put("tenants/t/packs/7", b"another's")
    assert len(list(bucket.list("tenants/t/"))) == 20


def test_a_large_upload_that_fails_for_good_leaves_nothing_to_see(
    s3_place, s3_credentials, bucket, tmp_path, impatient
):
    with failing_proxy.before(s3_place.endpoint, 1) as proxy:
        proxy.share = 0
        weak = S3Store(replace(s3_place, endpoint=proxy.endpoint), s3_credentials, cache=tmp_path / "weak")
        writer = weak.begin(NAME)
        for _ in range(20):
            writer.write(os.urandom(MIB))
        proxy.share = 1
        with pytest.raises(RepositoryUnavailable):
            writer.finish()
        writer.abandon()
    assert not bucket.exists(NAME)


def test_an_address_opens_what_it_names(s3_place, bucket, monkeypatch, tmp_path):
    for name, value in s3_server.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bucket.put(NAME, b"1")
    address = f"{s3_place}?endpoint={s3_place.endpoint}"
    assert open_store(address).get(NAME) == create_store(address).get(NAME) == b"1"
    assert isinstance(create_store(tmp_path / "folder"), FolderStore)
    assert isinstance(open_store(str(tmp_path / "folder")), FolderStore)


def test_an_address_without_keys_says_where_they_belong(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with pytest.raises(RepositoryUnavailable, match="AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket/prefix")


def test_the_parts_of_an_address():
    assert s3_place("/srv/backups") is None
    assert s3_place("s3://b") == Place(bucket="b")
    assert s3_place("s3://b/p/q/?endpoint=https://s3.example.org:9000&region=eu") == Place(
        bucket="b", prefix="p/q", endpoint="https://s3.example.org:9000", region="eu"
    )


@pytest.mark.parametrize(
    "address", ["s3://", "s3:///p", "s3://key:secret@bucket/p", "s3://b?secret=x", "s3://b?endpoint=s3.example.org"]
)
def test_an_address_that_cannot_be_meant_is_refused(address):
    with pytest.raises(InvalidRequest):
        open_store(address, credentials=Credentials(access_key_id="a", secret_access_key="b"))


def test_secrets_are_not_shown():
    shown = repr(Credentials(access_key_id="a", secret_access_key="the-secret", session_token="the-token"))
    assert "the-secret" not in shown
    assert "the-token" not in shown
