(import 'lib/yaml.libsonnet').document((import 'mixin.libsonnet').manualUp)
