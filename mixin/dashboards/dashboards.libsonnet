// The dashboards, one file each.
(import 'overview.libsonnet') +
(import 'memory.libsonnet') +
(import 'performance.libsonnet')
