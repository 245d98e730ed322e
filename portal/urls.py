from django.urls import URLPattern, URLResolver, include, path

from portal import events
from portal.views import (
    account,
    archives,
    audit,
    dashboard,
    home,
    plans,
    recoveries,
    recovering,
    runs,
    tokens,
    vapps,
)
from portal.views.provider import assignments, estate, tenants, vcenters

streams: list[URLPattern | URLResolver] = [
    path("runs/<uuid:run_id>/events/", events.run_stream, name="run-events"),
    path("recoveries/<uuid:recovery_id>/events/", events.recovery_stream, name="recovery-events"),
]
tenant: list[URLPattern | URLResolver] = [
    path("", dashboard.dashboard, name="dashboard"),
    path("plans/", plans.plans, name="plans"),
    path("plans/new/", plans.new_plan, name="plan-new"),
    path("plans/starts/", plans.plan_starts, name="plan-starts"),
    path("plans/kept/", plans.plan_kept, name="plan-kept"),
    path("plans/<uuid:plan_id>/", plans.edit_plan, name="plan-edit"),
    path("plans/<uuid:plan_id>/delete/", plans.delete_plan, name="plan-delete"),
    path("plans/<uuid:plan_id>/run/", plans.run_plan, name="plan-run"),
    path("vapps/", vapps.vapps, name="vapps"),
    path("vapps/refresh/", vapps.refresh, name="vapps-refresh"),
    path("vapps/apply/", vapps.apply, name="vapps-apply"),
    path("vapps/revoke/", vapps.revoke, name="vapps-revoke"),
    path("vapps/back-up/", vapps.back_up, name="vapps-back-up"),
    path("vapps/recover/", vapps.recover, name="vapps-recover"),
    path("runs/", runs.runs, name="runs"),
    path("runs/<uuid:run_id>/", runs.run, name="run"),
    path("runs/<uuid:run_id>/live/", runs.run_live, name="run-live"),
    path("runs/<uuid:run_id>/cancel/", runs.cancel_run, name="run-cancel"),
    path("archives/", archives.archives, name="archives"),
    path("archives/<uuid:archive_id>/verify/", archives.verify_archive, name="archive-verify"),
    path("archives/<uuid:archive_id>/delete/", archives.delete_archive, name="archive-delete"),
    path("archives/<uuid:archive_id>/lock/", archives.lock_archive, name="archive-lock"),
    path("recoveries/", recoveries.recoveries, name="recoveries"),
    path("recoveries/new/", recovering.choose, name="recover"),
    path("recoveries/review/", recovering.review, name="recover-review"),
    path("recoveries/<uuid:recovery_id>/", recoveries.recovery, name="recovery"),
    path("recoveries/<uuid:recovery_id>/live/", recoveries.recovery_live, name="recovery-live"),
    path("recoveries/<uuid:recovery_id>/cancel/", recoveries.cancel_recovery, name="recovery-cancel"),
    path("tokens/", tokens.tokens, name="tokens"),
    path("tokens/<uuid:token_id>/revoke/", tokens.revoke_token, name="token-revoke"),
    path("audit/", audit.audit, name="audit"),
]
provider: list[URLPattern | URLResolver] = [
    path("", estate.overview, name="provider"),
    path("tenants/", tenants.tenants, name="provider-tenants"),
    path("tenants/<uuid:tenant_id>/members/", tenants.members, name="provider-members"),
    path(
        "tenants/<uuid:tenant_id>/members/<uuid:membership_id>/remove/",
        tenants.remove_member,
        name="provider-member-remove",
    ),
    path("vcenters/", vcenters.vcenters, name="provider-vcenters"),
    path("vcenters/new/", vcenters.find, name="provider-vcenter-new"),
    path("vcenters/new/confirm/", vcenters.enrol, name="provider-vcenter-confirm"),
    path("vcenters/<uuid:vcenter_id>/refresh/", vcenters.refresh, name="provider-vcenter-refresh"),
    path("assignments/", assignments.assignments, name="provider-assignments"),
    path("assignments/assign/", assignments.assign, name="provider-assign"),
    path("repositories/", estate.repositories, name="provider-repositories"),
    path("runs/", estate.runs, name="provider-runs"),
    path("snapshots/", estate.snapshots, name="provider-snapshots"),
    path("audit/", estate.audit, name="provider-audit"),
]
urlpatterns: list[URLPattern | URLResolver] = [
    path("", home.home, name="home"),
    path("login/", account.login, name="login"),
    path("logout/", account.logout, name="logout"),
    path("t/<uuid:tenant_id>/", include(tenant)),
    path("provider/", include(provider)),
    path("t/<uuid:tenant_id>/", include(streams)),
    path("api/v1/", include("portal.api.urls")),
]
