"""Expected trouble is shown to the user in its own words: above the form it came from, or on the page he came from."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import messages
from django.forms import BaseForm
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.utils.http import url_has_allowed_host_and_scheme

from backups.errors import HotfirstError


def told(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """For views that only act: on trouble, back to where the user was, with the sentence."""

    @wraps(view)
    def telling(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            return view(request, *args, **kwargs)
        except HotfirstError as error:
            messages.error(request, str(error))
            return redirect(came_from(request))

    return telling


def came_from(request: HttpRequest) -> str:
    page = request.headers.get("referer", "")
    mine = url_has_allowed_host_and_scheme(page, {request.get_host()}, require_https=request.is_secure())
    return page if mine else "/"


def accepted(form: BaseForm, save: Callable[[], Any]) -> bool:
    """Whether the form is valid and the service took it; if not, the form says why."""
    if not form.is_valid():
        return False
    try:
        save()
    except HotfirstError as error:
        form.add_error(None, str(error))
        return False
    return True
