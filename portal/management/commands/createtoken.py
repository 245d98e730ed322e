from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError

from backups.models import Role
from portal.models import ApiToken


class Command(BaseCommand):
    help = "Makes an API token of the provider, for its own area and every tenant. It is shown once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username", help="Provider staff.")
        parser.add_argument("--name", default="provider", help="What will use it.")
        parser.add_argument("--days", type=int, default=90, help="How long it is valid.")

    def handle(self, *, username: str, name: str, days: int, **_: Any) -> None:
        user = User.objects.filter(username=username, is_staff=True).first()
        if user is None:
            raise CommandError(f"{username} is not provider staff.")
        _token, secret = ApiToken.objects.create(
            user=user, tenant=None, role=Role.ADMIN, name=name, expiry=timedelta(days=days)
        )
        self.stdout.write(secret)
