// Every alert, one group a file. Symptoms page, causes inform.
(import 'engine.libsonnet') +
(import 'memory.libsonnet') +
(import 'services.libsonnet') +
(import 'postgresql.libsonnet') +
(import 'redis.libsonnet') +
(import 'models.libsonnet') +
(import 'slo.libsonnet')
