// Everything that a stack may want different. Override with _config+::.
{
  _config+:: {
    // Which series are ours. '' where the rules see nothing else.
    selector: 'job="niodoo"',

    // The label that tells clusters apart; series need not have it.
    clusterLabel: 'cluster',

    // Labels that identify one exporter or one probed stack, and by which every rule aggregates and joins.
    instanceLabels: [self.clusterLabel, 'job', 'instance'],

    // Window of rates in rules: at least four scrapes, so that one lost scrape leaves a rate.
    rateWindow: '5m',

    // How often the exporter is scraped; the windows above are checked against it.
    scrapeIntervalSeconds: 15,

    // Every number that alerts and dashboards compare with, each with its reason, is in thresholds.json. Change one with
    //   thresholds+: { cpu_usage_ratio+: { warning: 0.9 } }
    thresholds: import 'thresholds.json',

    // What is different for one alert: { HighCPUUsage: { enabled: false }, HighDiskUsage: { priority: 'P2', 'for': '1h' } }
    // InfoInhibitor, which holds P4 alerts back until something worse fires beside them, is off: P4 alerts come once a day in
    // business hours anyway.
    alerts: { InfoInhibitor: { enabled: false } },

    // Entries that the engine's memory layers hold, by the names an engine may use for them. From the performance guide's
    // layer_0..5 sizes and the engine documentation's layers. A layer that is not listed is not judged.
    layerCapacity: {
      layer_0: 1000,
      layer_1: 5000,
      layer_2: 10000,
      layer_3: 20000,
      layer_4: 10000,
      layer_5: 5000,
      short_term: 1000,
      long_term: 1000000,
      episodic: 100000,
    },

    // Mounts whose space is not judged: /boot is small, and only the package manager writes there.
    ignoredPaths: '/boot(/.*)?',

    // SLOs are time slices: a recorded 0 or 1 per instance, whose average over a window is what was kept.
    slo: {
      // Nominal window of the error budget.
      windowDays: 30,
      // Latency is judged only while at least this many events per second are processed.
      minimumEventsPerSecond: 0.01,
    },

    // Where people look. Alerts link there.
    grafanaURL: 'http://localhost:3000',
    runbookURL: 'https://github.com/niodoo/niodoo_exporter/blob/main/docs/runbooks',

    // Dashboards. The prefix is the path that Grafana is served under, '' for none.
    dashboardPrefix: '',
    dashboardTimezone: 'browser',
    dashboardRefresh: '30s',
    dashboardTags: ['niodoo'],

    // Business hours, in which P3 and P4 are sent; what still fires when they begin is sent then. null: at any hour.
    businessHours: {
      weekdays: ['monday:friday'],
      times: [{ start_time: '09:00', end_time: '17:00' }],
      location: 'Local',
    },

    // What each component cannot work without. While one of these is down, its dependents' causes are not news.
    dependencies: {
      engine: ['postgresql', 'redis', 'ollama'],
      grafana: ['prometheus'],
    },

    // The manual's mail settings. A relay that asks for a login gets it from the file, over TLS.
    smtp: {
      smarthost: 'localhost:587',
      from: 'alerts@yourdomain.com',
      to: 'admin@yourdomain.com',
      authUsername: '',
      authPasswordFile: '',
      requireTLS: true,
    },
    // Webhooks, by receiver (those below too); '' is off.
    webhooks: {
      // The dead man's switch: expects Watchdog without a pause. niodooctl incident listen is one,
      // at http://localhost:10647/webhook; it takes both.
      heartbeat: '',
      // Every alert, at any hour, for niodooctl incident listen.
      incidents: '',
    },
    // A file that holds the bearer token of the webhooks; '' for none.
    webhookCredentialsFile: '',
    // Off until the file with the secret is named.
    slack: { apiURLFile: '', channel: '#niodoo' },
    pagerduty: { routingKeyFile: '' },

    // Who hears of what. default has the alerts that carry no priority: those that are not ours. email is one address
    // or several with commas; '' sends no mail.
    receivers: {
      default: { email: $._config.smtp.to, slack: false, pagerduty: false },
      P1: { email: $._config.smtp.to, slack: true, pagerduty: true },
      P2: { email: $._config.smtp.to, slack: true, pagerduty: true },
      P3: { email: $._config.smtp.to, slack: true, pagerduty: false },
      P4: { email: $._config.smtp.to, slack: false, pagerduty: false },
    },

    // How soon a group of alerts is sent, how soon what joins it, and how often while nobody mends it. Anything here is
    // a key of an Alertmanager route. The most urgent wait for one scrape and a little more: services that fall at the same
    // time are seen in one scrape or in two, and are to be one notification.
    routes: {
      local oneScrape = '%ds' % ($._config.scrapeIntervalSeconds + 5),
      default: { group_wait: '30s', group_interval: '5m', repeat_interval: '4h' },
      heartbeat: { group_wait: '0s', group_interval: '1m', repeat_interval: '5m' },
      incidents: { group_wait: oneScrape, group_interval: '1m', repeat_interval: '1h' },
      P1: { group_wait: oneScrape, group_interval: '1m', repeat_interval: '15m' },
      P2: { group_wait: '30s', group_interval: '5m', repeat_interval: '1h' },
      P3: { group_wait: '5m', group_interval: '15m', repeat_interval: '4h' },
      P4: { group_wait: '5m', group_interval: '1h', repeat_interval: '24h' },
    },
  },
}
