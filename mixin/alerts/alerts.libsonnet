// Every alert, one group a file. Symptoms page, causes inform.
(import 'down.libsonnet') +
(import 'engine.libsonnet') +
(import 'memory.libsonnet') +
(import 'services.libsonnet') +
(import 'postgresql.libsonnet') +
(import 'redis.libsonnet') +
(import 'models.libsonnet') +
(import 'host.libsonnet') +
(import 'gpu.libsonnet') +
(import 'containers.libsonnet') +
(import 'logs.libsonnet') +
(import 'backup.libsonnet') +
(import 'operations.libsonnet') +
(import 'slo.libsonnet') +
(import 'meta.libsonnet')
