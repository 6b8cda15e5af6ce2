// The dashboards, one file each.
(import 'overview.libsonnet')
