from argparse import ArgumentParser
from getpass import getpass
from typing import Any

from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from backups.errors import HotfirstError
from backups.models import Role
from backups.services.tenants import create_tenant, set_membership


class Command(BaseCommand):
    help = "Makes a tenant, its keys and its first administrator."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="The tenant's name.")
        parser.add_argument("username", help="Its administrator; made if there is no such user.")

    def handle(self, *, name: str, username: str, **_: Any) -> None:
        user = User.objects.filter(username=username).first()
        password = None if user else self._ask(username)
        try:
            with transaction.atomic():
                user = user or User.objects.create_user(username, password=password)
                set_membership(None, create_tenant(None, name), user, Role.ADMIN)
        except HotfirstError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(self.style.SUCCESS(f"{username} administers the new tenant {name}."))

    def _ask(self, username: str) -> str:
        password = getpass(f"Password of the new user {username}: ")
        try:
            validate_password(password)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error
        return password
