// Recording rules: what alerts and dashboards share, the SLO slices, and the operations manual's own names.
(import 'recording.libsonnet') +
(import 'kpis.libsonnet') +
(import 'slo.libsonnet') +
(import 'manual.libsonnet')
