// Every alert, one group a file. Symptoms page, causes inform.
(import 'engine.libsonnet') +
(import 'slo.libsonnet')
