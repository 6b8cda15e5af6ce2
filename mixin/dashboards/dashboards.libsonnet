// The dashboards, one file each.
(import 'overview.libsonnet') +
(import 'memory.libsonnet') +
(import 'performance.libsonnet') +
(import 'services.libsonnet') +
(import 'operations.libsonnet') +
(import 'fleet.libsonnet')
