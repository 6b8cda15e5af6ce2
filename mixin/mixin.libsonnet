// The mixin: import this file, set _config, and use the three standard fields.
//   local niodoo = (import 'mixin/mixin.libsonnet') + { _config+:: { selector: 'job="my-niodoo"' } };
(import 'config.libsonnet') +
(import 'rules/rules.libsonnet') +
(import 'alerts/alerts.libsonnet') +
(import 'dashboards/dashboards.libsonnet') +
(import 'alertmanager.libsonnet')
