"""Settings of the tests: those of the product, in a folder of their own and with quick passwords."""

import atexit
import os
import shutil
import tempfile

if "HOTFIRST_HOME" not in os.environ:
    os.environ["HOTFIRST_HOME"] = tempfile.mkdtemp(prefix="hotfirst-test-")
    atexit.register(shutil.rmtree, os.environ["HOTFIRST_HOME"], ignore_errors=True)

from portal.settings import *  # noqa: F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
AXES_ENABLED = False
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":  # noqa: F405
    # A file: threads that share a database in memory lock one another out.
    DATABASES["default"]["TEST"] = {"NAME": HOTFIRST_HOME / "test.sqlite3"}  # noqa: F405
