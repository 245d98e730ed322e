"""Everything that differs between installations comes from the environment; README.md lists the variables."""

import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path

import environ
from csp.constants import NONCE, NONE, SELF

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()

HOTFIRST_HOME = Path(env.str("HOTFIRST_HOME", default=str(BASE_DIR / "var")))
HOTFIRST_HOME.mkdir(parents=True, exist_ok=True)


def secret_file(name: str) -> str:
    """A secret of this installation, made at the first start and readable by its owner alone. Of two processes that
    start at once one makes it, and both read it."""
    path = HOTFIRST_HOME / name
    if not path.exists():
        fresh = HOTFIRST_HOME / f"{name}.{os.getpid()}"
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(48))
        with suppress(FileExistsError):
            path.hardlink_to(fresh)
        fresh.unlink()
    return path.read_text()


DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY", default="") or secret_file("secret.key")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
HTTPS = env.bool("HTTPS", default=False)

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.humanize",
    "django.contrib.staticfiles",
    "django_q",
    "django_htmx",
    "axes",
    "csp",
    "rest_framework",
    "knox",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "backups",
    "portal",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "csp.middleware.CSPMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = "portal.urls"
ASGI_APPLICATION = "portal.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "portal.access.navigation",
            ]
        },
    }
]

DATABASES = {
    "default": env.db_url_config(
        env.str("DATABASE_URL", default="") or f"sqlite:///{HOTFIRST_HOME / 'hotfirst.sqlite3'}"
    )
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # Without IMMEDIATE and WAL, workers and the portal lock one another out.
    DATABASES["default"]["OPTIONS"] = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;PRAGMA foreign_keys=ON;",
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = 0.25  # hours
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_LOCKOUT_TEMPLATE = "locked_out.html"

SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SECURE_SSL_REDIRECT = HTTPS
SECURE_HSTS_SECONDS = 31536000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if env.bool("BEHIND_PROXY", default=False) else None
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "EXCLUDE_URL_PREFIXES": (),
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF, NONCE],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    },
}

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
# Files are served from where they lie; the folder must be there, and stays empty.
STATIC_ROOT = HOTFIRST_HOME / "static"
STATIC_ROOT.mkdir(exist_ok=True)
WHITENOISE_USE_FINDERS = True

Q_CLUSTER = {
    "name": "hotfirst",
    "orm": "default",
    "workers": 4,
    # Prefetched messages age while a reader is busy; with early ack and leases one in hand is enough.
    "queue_limit": 1,
    "bulk": 1,
    "poll": 0.5,
    "timeout": 172800,
    "retry": 176400,
    "max_attempts": 1,
    "ack_failures": True,
    "save_limit": -1,
    "recycle": 500,
    "catch_up": False,
    "time_zone": "UTC",
    "label": "Hotfirst",
    "log_level": "WARNING",
    "ALT_CLUSTERS": {"readers": {"workers": env.int("HOTFIRST_READERS", default=4)}},
}

HOTFIRST_PLATFORM = env.str("HOTFIRST_PLATFORM", default="vsphere.platform.connect")
HOTFIRST_FETCH_CERTIFICATE = "vsphere.platform.fetch_certificate"
HOTFIRST_FINGERPRINT = "vsphere.platform.fingerprint"
HOTFIRST_MASTER_KEY = env.str("HOTFIRST_MASTER_KEY", default="")
HOTFIRST_HOST = env.str("HOTFIRST_HOST", default=socket.gethostname())
HOTFIRST_LEASE_S = env.float("HOTFIRST_LEASE_S", default=60)
HOTFIRST_STUCK_S = env.float("HOTFIRST_STUCK_S", default=1800)
if DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    # A host that is lost in the middle of a transaction would keep its locks until TCP gives it up, two hours later.
    DATABASES["default"].setdefault("OPTIONS", {}).setdefault(
        "options", f"-c idle_in_transaction_session_timeout={HOTFIRST_LEASE_S:.0f}s"
    )
HOTFIRST_ARCHIVE_TIMEOUT_S = env.float("HOTFIRST_ARCHIVE_TIMEOUT_S", default=24 * 3600)
HOTFIRST_LOAD_WINDOW_S = env.int("HOTFIRST_LOAD_WINDOW_S", default=900)

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "portal.api.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_PAGINATION_CLASS": "portal.api.pagination.Pages",
    "EXCEPTION_HANDLER": "portal.api.problems.handle",
    "PAGE_SIZE": 100,
}
REST_KNOX = {
    "TOKEN_PREFIX": "hf_",
    "AUTH_HEADER_PREFIX": "Bearer",
    "TOKEN_MODEL": "portal.ApiToken",
    "AUTO_REFRESH": False,
}
# Its only table is the one that ours stands in for.
MIGRATION_MODULES = {"knox": None}
KNOX_TOKEN_MODEL = "portal.ApiToken"  # noqa: S105
SPECTACULAR_SETTINGS = {
    "TITLE": "Hotfirst",
    "DESCRIPTION": "Backs up virtual machines on behalf of tenants, the busiest first.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "ENUM_NAME_OVERRIDES": {
        "RunStateEnum": "backups.models.runs.RunState",
        "ItemStateEnum": "backups.models.runs.ItemState",
        "ArchiveStateEnum": "backups.models.archives.ArchiveState",
        "RecoveryStateEnum": "backups.models.recoveries.RecoveryState",
        "RecoveryModeEnum": "backups.models.recoveries.RecoveryMode",
        "CancelModeEnum": ["now", "after_current"],
    },
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {"axes": {"level": "WARNING"}, "django-q": {"level": "WARNING"}},
    "root": {"handlers": ["console"], "level": env.str("LOG_LEVEL", default="INFO")},
}
