// The alerts that are off by default, for their tests.
local mixin = (import '../mixin.libsonnet') + {
  _config+:: {
    thresholds+: { events_per_second+: { enabled: true } },
    alerts+: { InfoInhibitor: { enabled: true } },
  },
};
local optional = ['LowConsciousnessProcessingRate', 'InfoInhibitor'];

(import '../lib/yaml.libsonnet').document({
  groups: [
    { name: group.name + '-optional', rules: rules }
    for group in mixin.prometheusAlerts.groups
    for rules in [[rule for rule in group.rules if std.member(optional, rule.alert)]]
    if std.length(rules) > 0
  ],
})
