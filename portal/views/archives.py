from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID

from django.contrib import messages
from django.db.models import Q, Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST

from backups.models import Archive, Role, Tenant, Vm
from backups.models.archives import ArchiveState
from backups.services import archives as service
from portal.access import tenant_view
from portal.forms import LockForm
from portal.views.feedback import accepted, came_from, told
from portal.views.paging import page_of
from portal.views.selection import found


@tenant_view(Role.VIEWER)
def archives(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    wanted = request.GET.get("q", "").strip()
    here = Archive.objects.for_tenant(tenant).exclude(state=ArchiveState.DELETED)
    if wanted:
        here = here.filter(Q(vm_name__icontains=wanted) | Q(vapp_name__icontains=wanted))
    vms = Vm.objects.for_tenant(tenant).select_related("plan__tenant", "vapp__plan__tenant")
    vm = next(iter(found(vms, request.GET.getlist("vm")[:1])), None)
    if vm:
        here = here.filter(vm=vm)
    page = page_of(request, here.select_related("repository").order_by("-backup_time", "vm_name"))
    _tell_why_kept(page, vm)
    context = {
        "q": wanted,
        "vm": vm,
        "page": page,
        "now": timezone.now(),
        "sums": here.aggregate(stored=Sum("bytes_stored"), new=Sum("bytes_new")),
    }
    return render(request, "archives/list.html", context)


def _tell_why_kept(page: Iterable[Archive], vm: Vm | None) -> None:
    """For the archives of one VM: what its plan's retention says of them now."""
    plan = vm and (vm.plan or (vm.vapp and vm.vapp.plan))
    if not vm or not plan:
        return
    verdicts = {archive.pk: verdict for archive, verdict in service.retention_of(plan, vm, timezone.now())}
    for archive in page:
        archive.verdict = verdicts.get(archive.pk)  # type: ignore[attr-defined]


@tenant_view(Role.OPERATOR, Role.OPERATOR)
@require_POST
@told
def verify_archive(request: HttpRequest, tenant: Tenant, archive_id: UUID) -> HttpResponse:
    archive = get_object_or_404(Archive.objects.for_tenant(tenant), pk=archive_id)
    if service.verify_archive(request.user, archive):
        messages.success(request, f"The archive of {archive} is whole: every block was read, decrypted and compared.")
    else:
        messages.error(request, f"The archive of {archive} is damaged. The next backup reads the VM in full.")
    return redirect(came_from(request))


@tenant_view(Role.ADMIN, Role.ADMIN)
@told
def delete_archive(request: HttpRequest, tenant: Tenant, archive_id: UUID) -> HttpResponse:
    archive = get_object_or_404(Archive.objects.for_tenant(tenant).exclude(state=ArchiveState.DELETED), pk=archive_id)
    if request.method == "POST":
        service.delete_archive(request.user, archive)
        messages.success(request, f"The archive of {archive} is deleted.")
        return redirect("archives", tenant.pk)
    others = Archive.objects.for_tenant(tenant).filter(vm=archive.vm_id, state=ArchiveState.GOOD)
    context = {"archive": archive, "left": others.exclude(pk=archive.pk).count(), "now": timezone.now()}
    return render(request, "archives/delete.html", context)


@tenant_view(Role.ADMIN, Role.ADMIN)
def lock_archive(request: HttpRequest, tenant: Tenant, archive_id: UUID) -> HttpResponse:
    archive = get_object_or_404(Archive.objects.for_tenant(tenant).exclude(state=ArchiveState.DELETED), pk=archive_id)
    usual = max(timezone.now(), archive.locked_until or timezone.now()) + timedelta(days=30)
    form = LockForm(request.POST or None, initial={"until": usual.date()})
    if accepted(form, lambda: service.lock_archive(request.user, archive, form.end())):
        messages.success(request, f"The archive of {archive} is locked until the end of {form.cleaned_data['until']}.")
        return redirect("archives", tenant.pk)
    return render(request, "archives/lock.html", {"archive": archive, "form": form, "now": timezone.now()})
