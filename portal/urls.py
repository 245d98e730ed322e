from django.urls import URLPattern, URLResolver, include, path

from portal import events

tenant: list[URLPattern | URLResolver] = [
    path("runs/<uuid:run_id>/events/", events.run_stream, name="run-events"),
    path("recoveries/<uuid:recovery_id>/events/", events.recovery_stream, name="recovery-events"),
]
urlpatterns: list[URLPattern | URLResolver] = [
    path("t/<uuid:tenant_id>/", include(tenant)),
    path("api/v1/", include("portal.api.urls")),
]
