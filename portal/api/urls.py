from django.urls import include, path

from portal.api import archives, docs, forecasts, inventory, plans, provider, runs, streams

tenant = [
    path("plans/", plans.Plans.as_view(), name="api-plans"),
    path("plans/<uuid:plan_id>/", plans.PlanDetail.as_view(), name="api-plan"),
    path("plans/<uuid:plan_id>/starts/", plans.PlanStarts.as_view(), name="api-plan-starts"),
    path("plans/<uuid:plan_id>/retention/", plans.PlanRetention.as_view(), name="api-plan-retention"),
    path("plans/<uuid:plan_id>/forecast/", forecasts.PlanForecast.as_view(), name="api-plan-forecast"),
    path("plans/<uuid:plan_id>/apply/", plans.PlanApply.as_view(), name="api-plan-apply"),
    path("plans/<uuid:plan_id>/runs/", plans.PlanRuns.as_view(), name="api-plan-runs"),
    path("revoke/", plans.Revoke.as_view(), name="api-revoke"),
    path("vapps/", inventory.VApps.as_view(), name="api-vapps"),
    path("vms/", inventory.Vms.as_view(), name="api-vms"),
    path("repositories/", inventory.Repositories.as_view(), name="api-repositories"),
    path("refresh/", inventory.Refresh.as_view(), name="api-refresh"),
    path("runs/", runs.Runs.as_view(), name="api-runs"),
    path("runs/<uuid:run_id>/", runs.RunDetail.as_view(), name="api-run"),
    path("runs/<uuid:run_id>/items/", runs.RunItems.as_view(), name="api-run-items"),
    path("runs/<uuid:run_id>/events/", streams.RunEvents.as_view(), name="api-run-events"),
    path("runs/<uuid:run_id>/cancel/", runs.RunCancel.as_view(), name="api-run-cancel"),
    path("runs/<uuid:run_id>/pause/", runs.RunPause.as_view(), name="api-run-pause"),
    path("runs/<uuid:run_id>/resume/", runs.RunResume.as_view(), name="api-run-resume"),
    path("runs/<uuid:run_id>/retry/", runs.RunRetry.as_view(), name="api-run-retry"),
    path("runs/<uuid:run_id>/items/<uuid:item_id>/raise/", runs.RunItemRaise.as_view(), name="api-run-item-raise"),
    path("archives/", archives.Archives.as_view(), name="api-archives"),
    path("archives/<uuid:archive_id>/", archives.ArchiveDetail.as_view(), name="api-archive"),
    path("archives/<uuid:archive_id>/verify/", archives.ArchiveVerify.as_view(), name="api-archive-verify"),
    path("archives/<uuid:archive_id>/lock/", archives.ArchiveLock.as_view(), name="api-archive-lock"),
    path("recovery-points/", archives.RecoveryPoints.as_view(), name="api-recovery-points"),
    path("recoveries/", archives.Recoveries.as_view(), name="api-recoveries"),
    path("recoveries/<uuid:recovery_id>/", archives.RecoveryDetail.as_view(), name="api-recovery"),
    path("recoveries/<uuid:recovery_id>/events/", streams.RecoveryEvents.as_view(), name="api-recovery-events"),
    path("recoveries/<uuid:recovery_id>/cancel/", archives.RecoveryCancel.as_view(), name="api-recovery-cancel"),
    path("audit/", runs.Audit.as_view(), name="api-audit"),
]
provider_area = [
    path("tenants/", provider.Tenants.as_view(), name="api-provider-tenants"),
    path("vcenters/", provider.VCenters.as_view(), name="api-provider-vcenters"),
    path("vcenters/certificate/", provider.VCenterCertificate.as_view(), name="api-provider-certificate"),
    path("vcenters/<uuid:vcenter_id>/refresh/", provider.VCenterRefresh.as_view(), name="api-provider-refresh"),
    path("repositories/", provider.Repositories.as_view(), name="api-provider-repositories"),
    path("assignments/", provider.Assignments.as_view(), name="api-provider-assignments"),
    path("snapshots/", provider.OpenSnapshots.as_view(), name="api-provider-snapshots"),
]
urlpatterns = [
    path("tenants/", provider.MyTenants.as_view(), name="api-tenants"),
    path("tenants/<uuid:tenant_id>/", include(tenant)),
    path("provider/", include(provider_area)),
    path("schema/", docs.schema, name="api-schema"),
    path("docs/", docs.page, name="api-docs"),
]
