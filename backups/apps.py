from django.apps import AppConfig


class BackupsConfig(AppConfig):
    name = "backups"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django_q.signals import pre_execute  # the app registry must be ready

        from backups.leases import acknowledge_early

        pre_execute.connect(acknowledge_early, dispatch_uid="acknowledge_early")
