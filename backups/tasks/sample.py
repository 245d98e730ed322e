"""Each few minutes: the loads of all VMs, for histories and forecasts."""

from django.utils import timezone

from backups.services.history import sample_all


def sample() -> None:
    sample_all(timezone.now())
