// Who hears of an alert, when, and which alerts are not news because of another. Every key is one that Alertmanager 0.25
// knows too.
{
  local c = $._config,
  local priorities = ['P1', 'P2', 'P3', 'P4'],
  local hours = 'business-hours',

  // Alerts are told apart by where they are and how urgent they are: one mail for all that is wrong at one place.
  local groupBy = [c.clusterLabel, 'instance', 'priority'],

  local route(receiver, matchers) = { receiver: receiver, group_by: groupBy } + c.routes[receiver] +
                                    (if matchers == [] then {} else { matchers: matchers }),

  // within keeps a route to business hours.
  local within = if c.businessHours == null then {} else { active_time_intervals: [hours] },

  local webhook(name) = std.get(c.webhooks, name, ''),

  local receiver(name) =
    local to = { email: '', slack: false, pagerduty: false } + std.get(c.receivers, name, {});
    { name: name } +
    (if to.email == '' then {} else {
       email_configs: [{
         to: to.email,
         headers: { Subject: '{{ template "niodoo.subject" . }}' },
         text: '{{ template "niodoo.text" . }}',
         html: '{{ template "niodoo.html" . }}',
         send_resolved: true,
       }],
     }) +
    (if webhook(name) == '' then {} else {
       webhook_configs: [{
         url: webhook(name),
         // A heartbeat that is resolved is no heartbeat.
         send_resolved: name != 'heartbeat',
         [if c.webhookCredentialsFile != '' then 'http_config']: {
           authorization: { type: 'Bearer', credentials_file: c.webhookCredentialsFile },
         },
       }],
     }) +
    (if !to.slack || c.slack.apiURLFile == '' then {} else {
       slack_configs: [{
         api_url_file: c.slack.apiURLFile,
         channel: c.slack.channel,
         title: '{{ template "niodoo.subject" . }}',
         title_link: '{{ template "niodoo.link" . }}',
         fallback: '{{ template "niodoo.subject" . }}',
         text: '{{ template "niodoo.slack" . }}',
         send_resolved: true,
       }],
     }) +
    (if !to.pagerduty || c.pagerduty.routingKeyFile == '' then {} else {
       pagerduty_configs: [{
         routing_key_file: c.pagerduty.routingKeyFile,
         description: '{{ template "niodoo.subject" . }}',
         client: 'Alertmanager',
         client_url: '{{ template "niodoo.link" . }}',
         severity: '{{ template "niodoo.pagerduty.severity" . }}',
         component: '{{ .CommonLabels.component }}',
         group: '{{ template "niodoo.where" . }}',
         class: '{{ .CommonLabels.alertname }}',
         details: {
           firing: '{{ template "niodoo.list" .Alerts.Firing }}',
           resolved: '{{ template "niodoo.list" .Alerts.Resolved }}',
           num_firing: '{{ .Alerts.Firing | len }}',
           num_resolved: '{{ .Alerts.Resolved | len }}',
         },
         send_resolved: true,
       }],
     }),

  // Inhibition.

  // Alerts that say that a whole service is gone, each with its component.
  local down = ['ConsciousnessEngineDown', 'EngineDependencyDown', 'PostgreSQLDown', 'ServiceDown'],
  // Nothing makes these old news.
  local never = ['ConsciousnessEngineDown', 'Watchdog', 'HeartbeatLost'],

  // inhibit silences the target while the source fires on the same cluster and instance. A label that is missing on both
  // sides counts as equal, so both sides must have an instance; a stack without a cluster label is one cluster.
  local inhibit(source, target, spare=[], same=[]) = {
    local required = ['%s!=""' % l for l in ['instance'] + same],
    source_matchers: source + required,
    target_matchers: target + required + ['alertname!~' + anyOf(std.set(spare + never))],
    equal: [c.clusterLabel, 'instance'] + same,
  },

  // urgent sources only: one that itself waits for business hours must not keep an alert from whoever is on call.
  local urgent = 'priority=~"P[12]"',
  local anyOf(names) = '"%s"' % std.join('|', names),
  local isDown = 'alertname=~' + anyOf(down),

  alertmanager: {
    global: {
      smtp_smarthost: c.smtp.smarthost,
      smtp_from: c.smtp.from,
      smtp_require_tls: c.smtp.requireTLS,
      [if c.smtp.authUsername != '' then 'smtp_auth_username']: c.smtp.authUsername,
      [if c.smtp.authPasswordFile != '' then 'smtp_auth_password_file']: c.smtp.authPasswordFile,
    },

    templates: ['templates/niodoo.tmpl'],

    route: route('default', []) {
      routes: [
        // First, so that neither ever reaches a person.
        route('heartbeat', ['alertname="Watchdog"']),
        route('default', ['severity="none"']) { receiver: 'null' },
      ] + (
        if webhook('incidents') == '' then [] else
          [route('incidents', ['priority=~"P[1-4]"']) { continue: true }]
      ) + [
        route(p, ['priority="%s"' % p]) + (if std.member(['P3', 'P4'], p) then within else {})
        for p in priorities
      ],
    },

    inhibit_rules: [
      // A service that is gone silences what follows from that.
      inhibit([isDown, urgent], ['priority=~"P[1-4]"'], spare=down, same=['component']),
      // It has been told together with the engine.
      inhibit(['alertname="EngineDependencyDown"', urgent], ['alertname="ServiceDown"'], same=['component']),
    ] + [
      // So does one that others need, for their causes. What users feel of it, P1, is still said.
      inhibit(
        [isDown, urgent, 'component=~' + anyOf(c.dependencies[dependent])],
        ['priority=~"P[2-4]"', 'component="%s"' % dependent],
        spare=down,
      )
      for dependent in std.objectFields(c.dependencies)
    ] + [
      // Without the exporter, or its host, nothing about the place is known but what niodooctl has seen itself.
      inhibit(['alertname="NiodooExporterDown"', urgent], ['priority=~"P[1-4]"', 'source!="niodooctl"'], spare=['NiodooExporterDown']),
      // An outage has been told; that it burns the budget is no news until the short window is clean of it.
      inhibit(['alertname="NiodooEngineOutage"', 'severity="none"'], ['alertname="EngineAvailabilityBurn"']),
      // Whoever maintains a place knows that it is not at its best.
      inhibit(['alertname="MaintenanceInProgress"', 'severity="none"'], ['priority=~"P[34]"']),
      // Information is sent beside a warning, not on its own.
      inhibit(['alertname="InfoInhibitor"', 'severity="none"'], ['priority=~"P[1-4]"', 'severity="info"']),
    ],

    [if c.businessHours != null then 'time_intervals']: [
      { name: hours, time_intervals: [c.businessHours] },
    ],

    receivers: [receiver(n) for n in ['default', 'heartbeat', 'null'] + (if webhook('incidents') == '' then [] else ['incidents']) + priorities],
  },
}
