import pytest

from backups.models import LoadSample, Plan, VCenter
from backups.services.forecasts import compare_plan, forecast_plan
from backups.services.plans import create_plan
from backups.services.runs import start_run
from tests.fakes.platform import FakePlatform

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_plan_is_foreseen_without_asking_vcenter(plan: Plan, platform: FakePlatform, finish) -> None:
    finish(start_run(None, plan))
    platform.calls.clear()
    told = forecast_plan(plan)
    assert platform.calls == []
    assert [course.name for course in sorted(told.courses, key=lambda c: c.start_s)] == [
        "shop-db",
        "shop-web",
        "shop-idle",
    ]
    assert 0 < told.bound_kb <= told.exposure_kb * 1.000001


def test_options_that_are_not_saved_yet_can_be_played_with(plan: Plan, finish) -> None:
    finish(start_run(None, plan))
    plan.policy, plan.readers = "name", 3
    told = forecast_plan(plan)
    assert (told.policy, told.readers) == ("name", 3)


def test_orders_batches_and_readers_are_compared(plan: Plan, finish) -> None:
    finish(start_run(None, plan))
    told = compare_plan(plan, [("name", 0, 1), ("highest_load", 0, 2), ("highest_load", 2, 1)])
    assert len(told) == 3
    assert told[0].exposure_kb <= told[-1].exposure_kb


def test_a_datastore_short_of_room_is_foreseen(plan: Plan, platform: FakePlatform, finish) -> None:
    finish(start_run(None, plan))
    VCenter.objects.get().datastores.update(free_bytes=0)
    LoadSample.objects.update(write_kbps=1e6)
    told = forecast_plan(plan)
    assert {told.names[id_] for id_ in told.left_out} == {"shop-db", "shop-web", "shop-idle"}


def test_a_plan_without_vms_costs_nothing(plan: Plan) -> None:
    empty = create_plan(None, plan.tenant, name="Empty", repository=plan.repository)
    assert forecast_plan(empty).window_s == 0
    assert compare_plan(empty, [("name", 0, 1)])


def test_a_forecast_takes_as_many_queries_for_a_hundred_vms_as_for_three(
    plan: Plan, platform: FakePlatform, finish, django_assert_max_num_queries
) -> None:
    finish(start_run(None, plan))
    with django_assert_max_num_queries(12):
        forecast_plan(plan)
