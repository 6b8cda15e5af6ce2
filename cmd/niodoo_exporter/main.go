// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Command niodoo_exporter is a Prometheus exporter for a Niodoo consciousness
// stack: one process, one endpoint, every component and the KPIs.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"
	"github.com/prometheus/exporter-toolkit/web/kingpinflag"

	"github.com/niodoo/niodoo_exporter/collector"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/logging"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 64
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	go func() { <-ctx.Done(); stop() }() // a second signal ends us at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr, hup))
}

// options are the command line.
type options struct {
	configFile  string
	configCheck bool

	collectors      map[string]*collectorFlag
	disableDefaults bool
	maxSeries       int
	scrapeTimeout   time.Duration
	timeoutOffset   time.Duration

	maxRequests     int
	enableLifecycle bool
	enablePprof     bool
	gomaxprocs      int

	logLevel, logFormat string
	web                 *web.FlagConfig
}

// collectorFlag is --[no-]collector.NAME and whether it was given.
type collectorFlag struct{ on, given bool }

// defaultAddress is outside the exhausted range of registered exporter ports
// and below the ephemeral ports.
const defaultAddress = ":10646"

func parse(args []string, stdout, stderr io.Writer) (*options, int, bool) {
	o := &options{collectors: map[string]*collectorFlag{}}
	app := kingpin.New("niodoo_exporter", "Prometheus exporter for a Niodoo consciousness stack.")
	exited, code := false, exitOK
	app.Terminate(func(c int) { exited, code = true, c })
	app.UsageWriter(stdout)
	app.ErrorWriter(stderr)
	app.HelpFlag.Short('h')
	app.Version(version.Print("niodoo_exporter"))

	app.Flag("config.file", "Path of the configuration file. Without one the manual's ports on localhost are watched.").StringVar(&o.configFile)
	app.Flag("config.check", "Check the configuration, the web configuration and the files they name, and exit.").BoolVar(&o.configCheck)
	for _, name := range collector.Names() {
		f := &collectorFlag{}
		o.collectors[name] = f
		app.Flag("collector."+name, "Run the "+name+" collector, whatever the configuration says of enabled.").IsSetByUser(&f.given).BoolVar(&f.on)
	}
	app.Flag("collector.disable-defaults", "Run only collectors that the configuration names or a flag asks for.").BoolVar(&o.disableDefaults)
	app.Flag("collector.max-series", "Series that one collector may add to one scrape.").Default(fmt.Sprint(collector.DefaultMaxSeries)).IntVar(&o.maxSeries)
	app.Flag("scrape.timeout", "Longest time of a scrape; Prometheus' own timeout, if it sends one, makes it shorter.").Default(collector.DefaultTimeout.String()).DurationVar(&o.scrapeTimeout)
	app.Flag("scrape.timeout-offset", "How much earlier than Prometheus' timeout to answer.").Default("250ms").DurationVar(&o.timeoutOffset)
	app.Flag("web.max-requests", "Requests to /metrics, and to /probe, in flight at once; more are answered 503. 0 is no limit.").Default("40").IntVar(&o.maxRequests)
	app.Flag("web.enable-lifecycle", "Allow POST /-/reload.").BoolVar(&o.enableLifecycle)
	app.Flag("web.enable-pprof", "Serve /debug/pprof/.").BoolVar(&o.enablePprof)
	app.Flag("runtime.gomaxprocs", "Processors to use at once. One is the cheapest for a single stack; a large fleet wants more.").Default("1").IntVar(&o.gomaxprocs)
	app.Flag("log.level", "Lowest level to log: "+strings.Join(logging.Levels, ", ")+".").Default("info").EnumVar(&o.logLevel, logging.Levels...)
	app.Flag("log.format", "Format of log lines: "+strings.Join(logging.Formats, ", ")+".").Default("logfmt").EnumVar(&o.logFormat, logging.Formats...)
	o.web = kingpinflag.AddFlags(app, defaultAddress)

	_, err := app.Parse(args)
	switch {
	case exited:
		return nil, code, false
	case err == nil:
		err = o.validate()
	}
	if err != nil {
		fmt.Fprintf(stderr, "niodoo_exporter: %v; see --help\n", err)
		return nil, exitUsage, false
	}
	return o, exitOK, true
}

func (o *options) validate() error {
	switch {
	case o.scrapeTimeout <= 0:
		return fmt.Errorf("--scrape.timeout is %s; it must be more than 0", o.scrapeTimeout)
	case o.timeoutOffset < 0:
		return fmt.Errorf("--scrape.timeout-offset is %s; it must not be negative", o.timeoutOffset)
	case o.maxSeries <= 0:
		return fmt.Errorf("--collector.max-series is %d; it must be more than 0", o.maxSeries)
	case o.maxRequests < 0:
		return fmt.Errorf("--web.max-requests is %d; it must not be negative", o.maxRequests)
	case o.gomaxprocs < 1:
		return fmt.Errorf("--runtime.gomaxprocs is %d; it must be at least 1", o.gomaxprocs)
	}
	return nil
}

// load reads the configuration and lays the command line over it.
func (o *options) load() (*config.Config, error) {
	cfg, err := config.Load(o.configFile)
	if err != nil {
		return nil, err
	}
	for name, f := range o.collectors {
		s := cfg.Section(name)
		switch {
		case f.given:
			s.Enabled = &f.on
		case o.disableDefaults && !s.Named() && s.Enabled == nil:
			s.Enabled = new(bool)
		}
	}
	for name := range o.collectors {
		if cfg.Enabled(name) {
			return cfg, nil
		}
	}
	if len(cfg.Modules) == 0 {
		return nil, errors.New("no collector is enabled; name one in the configuration or with --collector.NAME")
	}
	return cfg, nil
}

// run is the whole program. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, hup <-chan os.Signal) int {
	o, code, ok := parse(args, stdout, stderr)
	if !ok {
		return code
	}
	logger, err := logging.New(stderr, o.logLevel, o.logFormat)
	if err != nil {
		fmt.Fprintf(stderr, "niodoo_exporter: %v\n", err)
		return exitUsage
	}
	if o.configCheck {
		return check(o, stdout, stderr)
	}
	cfg, err := o.load()
	if err != nil {
		return refuse(logger, "The configuration cannot be used", err)
	}
	if err := web.Validate(*o.web.WebConfigFile); err != nil {
		return refuse(logger, "The web configuration cannot be used", err)
	}
	runtime.GOMAXPROCS(o.gomaxprocs)
	logger.Info("Starting niodoo_exporter", "version", version.Version, "revision", version.GetRevision(), "go", version.GoVersion,
		"config", o.configFile, "gomaxprocs", o.gomaxprocs)
	return newServer(o, cfg, logger).serve(ctx, hup)
}

func refuse(logger *slog.Logger, msg string, err error) int {
	for line := range strings.Lines(err.Error()) { // one problem a line
		logger.Error(msg, "err", strings.TrimRight(line, "\n"))
	}
	return exitFailed
}

// check is --config.check: everything is read, nothing is started.
func check(o *options, stdout, stderr io.Writer) int {
	cfg, err := o.load()
	errs := []error{err}
	if err == nil {
		for _, f := range cfg.SecretFiles() {
			if _, err := config.SecretFile(f).Read(); err != nil {
				errs = append(errs, err)
			}
		}
		errs = append(errs, cfg.CheckTLSFiles())
	}
	if err := web.Validate(*o.web.WebConfigFile); err != nil {
		errs = append(errs, fmt.Errorf("--web.config.file %s: %w", *o.web.WebConfigFile, err))
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintf(stderr, "%v\n", err)
		return exitFailed
	}
	var on []string
	for _, name := range collector.Names() {
		if cfg.Enabled(name) {
			on = append(on, name)
		}
	}
	fmt.Fprintf(stdout, "The configuration is valid. Collectors: %s. Modules: %d.\n", strings.Join(on, ", "), len(cfg.Modules))
	return exitOK
}

// serve listens until ctx ends, lets the scrapes in flight finish and returns
// the exit code.
func (s *server) serve(ctx context.Context, hup <-chan os.Signal) int {
	srv := &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- web.ListenAndServe(srv, s.opts.web, s.logger) }()
	for {
		select {
		case <-hup:
			_ = s.reload() // it has logged why
		case err := <-failed:
			s.logger.Error("Cannot serve", "err", err)
			return exitFailed
		case <-ctx.Done():
			s.logger.Info("Stopping: letting the scrapes in flight finish")
			grace, cancel := context.WithTimeout(context.Background(), s.opts.scrapeTimeout+2*time.Second)
			defer cancel()
			code := exitOK
			if err := srv.Shutdown(grace); err != nil {
				s.logger.Error("Scrapes in flight did not finish", "err", err)
				code = exitFailed
			}
			s.close(grace)
			return code
		}
	}
}
