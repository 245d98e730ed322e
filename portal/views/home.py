from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from portal.access import account_view, tenants_of


@account_view
def home(request: HttpRequest) -> HttpResponse:
    if request.user.is_staff:
        return redirect("provider")
    tenants = tenants_of(request.user)
    if len(tenants) == 1:
        return redirect("dashboard", tenants[0].pk)
    return render(request, "home.html")
