// The rules as the Prometheus operator's resource.
local m = import 'mixin.libsonnet';
(import 'lib/yaml.libsonnet').document({
  apiVersion: 'monitoring.coreos.com/v1',
  kind: 'PrometheusRule',
  metadata: { name: 'niodoo', labels: { 'app.kubernetes.io/name': 'niodoo-exporter', 'app.kubernetes.io/component': 'monitoring' } },
  spec: { groups: m.prometheusRules.groups + m.manualNames.groups + m.prometheusAlerts.groups },
})
