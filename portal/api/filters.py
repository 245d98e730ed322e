"""Filters by the id of another row compare ids and look nothing up: an id of another tenant's row is answered like one
that does not exist."""

from django.db import models
from django_filters import UUIDFilter
from django_filters.rest_framework import DjangoFilterBackend, FilterSet


class RowFilters(FilterSet):
    FILTER_DEFAULTS = FilterSet.FILTER_DEFAULTS | {models.ForeignKey: {"filter_class": UUIDFilter}}


class Filters(DjangoFilterBackend):
    filterset_base = RowFilters
