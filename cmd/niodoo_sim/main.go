// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Command niodoo_sim runs a simulated Niodoo stack whose services can be made
// to fail by name, and the demo: that stack with a real PostgreSQL and Redis,
// watched by the exporter.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/version"
	"github.com/redis/go-redis/v9"

	"github.com/niodoo/niodoo_exporter/internal/sim"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 64
)

func main() {
	redis.SetLogger(silent{}) // the load runs into servers that were made to fail
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() { <-ctx.Done(); stop() }() // a second signal ends us at once
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// silent drops what the Redis client logs by itself.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// options are the command line.
type options struct {
	sim       sim.Options
	faults    []string
	control   string
	databases bool
	// dockerSocket asks for a Docker Engine.
	dockerSocket bool
	// machine asks for a machine below the stack.
	machine bool

	// run
	portOffset int
	freePorts  bool
	configOut  string

	// demo
	exporter        string
	exporterAddress string
	exporterPath    string // as found; "" is no exporter
	exporterOutput  io.Writer
	once            bool
	timeout         time.Duration
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	o := &options{}
	if len(args) > 0 && args[0] == clockedCommand { // what follows is another program's
		fmt.Fprintf(stderr, "niodoo_sim: %v\n", runClocked(args[1:]))
		return exitFailed
	}
	app := kingpin.New("niodoo_sim", "A simulated Niodoo stack that can be made to fail.")
	code, exited := exitOK, false
	app.Terminate(func(c int) { code, exited = c, true })
	app.UsageWriter(stdout)
	app.ErrorWriter(stderr)
	app.HelpFlag.Short('h')
	app.Version(version.Print("niodoo_sim"))

	runCmd := app.Command("run", "Run the stack until interrupted.")
	o.common(runCmd, "127.0.0.1:10647", "false")
	runCmd.Flag("port-offset", "Add this to each of the manual's ports.").IntVar(&o.portOffset)
	runCmd.Flag("free-ports", "Take free ports instead of the manual's.").BoolVar(&o.freePorts)
	runCmd.Flag("services", "Services to simulate, separated by commas. Default: all.").StringsVar(&o.sim.Only)
	runCmd.Flag("databases", "Also start a real PostgreSQL and Redis, on free ports.").BoolVar(&o.databases)
	runCmd.Flag("config.out", "Write the exporter's configuration for this stack to a file; - is the standard output.").StringVar(&o.configOut)

	demoCmd := app.Command("demo", "Run the stack on free ports, with a real PostgreSQL and Redis, watched by the exporter.")
	o.common(demoCmd, "127.0.0.1:0", "true")
	demoCmd.Flag("exporter", "Path of niodoo_exporter. Default: next to this program, else in PATH.").StringVar(&o.exporter)
	demoCmd.Flag("exporter-address", "Where the exporter listens; port 0 takes a free one.").Default("127.0.0.1:10646").StringVar(&o.exporterAddress)
	demoCmd.Flag("once", "Show the first good scrape and stop; exit 1 if there is none in time.").BoolVar(&o.once)
	demoCmd.Flag("timeout", "How long to wait for the first good scrape.").Default("90s").DurationVar(&o.timeout)

	demoCmd.Flag("databases", "Also start a real PostgreSQL and Redis.").Default("true").BoolVar(&o.databases)

	faultsCmd := app.Command("faults", "List the faults and what they do.")
	guardCmd := app.Command("guard", "Remove directories once the standard input ends.").Hidden()

	command, err := app.Parse(args)
	if exited {
		return code
	}
	if command == demoCmd.FullCommand() {
		o.freePorts = true
	}
	if err == nil {
		err = o.validate()
	}
	if err != nil {
		fmt.Fprintf(stderr, "niodoo_sim: %v; see --help\n", err)
		return exitUsage
	}
	switch command {
	case runCmd.FullCommand():
		err = o.run(ctx, stdout)
	case demoCmd.FullCommand():
		err = o.demo(ctx, stdout, stderr)
	case faultsCmd.FullCommand():
		err = listFaults(stdout)
	case guardCmd.FullCommand():
		err = guard(stdin)
	}
	if err != nil {
		fmt.Fprintf(stderr, "niodoo_sim: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// common are the flags of every command that starts the stack.
func (o *options) common(c *kingpin.CmdClause, control, docker string) {
	dialects := sim.EngineDialects()
	c.Flag("seed", "Seed of the values.").Default("1").Uint64Var(&o.sim.Seed)
	c.Flag("age", "For how long the stack has been running at the start.").Default("6h").DurationVar(&o.sim.Age)
	c.Flag("fault", "Begin with this fault; repeatable.").StringsVar(&o.faults)
	c.Flag("control-address", "Where faults are injected and lifted; port 0 takes a free one.").Default(control).StringVar(&o.control)
	c.Flag("docker", "Also simulate a Docker Engine, on a socket in the stack's own directory.").Default(docker).BoolVar(&o.dockerSocket)
	c.Flag("machine", "Also simulate the machine: its procfs, a disk (where one may be mounted), a clock, a graphics processor; a listener for the heartbeat, the way to PostgreSQL and TLS before Grafana.").BoolVar(&o.machine)
	c.Flag("flap-period", "How long a service that comes and goes stays, and is gone.").Default("45s").DurationVar(&o.sim.FlapPeriod)
	for name, value := range map[string]*string{"metrics": &o.sim.Engine.Metrics, "processing": &o.sim.Engine.Processing, "memory": &o.sim.Engine.Memory, "health": &o.sim.Engine.Health} {
		c.Flag("engine."+name, "The engine's dialect: "+strings.Join(dialects[name], ", ")+".").Default(dialects[name][0]).EnumVar(value, dialects[name]...)
	}
	c.Flag("engine.token-file", "File with the bearer token that the engine asks for.").StringVar(&o.sim.Engine.TokenFile)
	c.Flag("engine.rate-limit", "Let the engine keep its limits of requests a minute.").BoolVar(&o.sim.Engine.Limit)
	c.Flag("qdrant.api-key-file", "File with the key that Qdrant asks for.").StringVar(&o.sim.QdrantKeyFile)
}

func (o *options) validate() error {
	var only []string
	for _, s := range o.sim.Only {
		only = append(only, strings.Split(s, ",")...)
	}
	o.sim.Only = only
	if o.portOffset != 0 && o.freePorts {
		return fmt.Errorf("--port-offset and --free-ports exclude each other")
	}
	if o.freePorts {
		return nil
	}
	o.sim.Ports = sim.ManualPorts()
	for name := range o.sim.Ports {
		o.sim.Ports[name] += o.portOffset
		if port := o.sim.Ports[name]; port < 1 || port > 65535 {
			return fmt.Errorf("--port-offset %d gives %s the port %d", o.portOffset, name, port)
		}
	}
	return nil
}

// run runs the stack until ctx ends.
func (o *options) run(ctx context.Context, stdout io.Writer) error {
	l, err := o.start(ctx)
	if err != nil {
		return err
	}
	defer l.stop()
	if err := writeConfig(o.configOut, stdout, l.config); err != nil {
		return err
	}
	if o.configOut != "-" {
		l.show(stdout)
	}
	<-ctx.Done()
	return nil
}

func writeConfig(path string, stdout io.Writer, text string) error {
	switch path {
	case "":
		return nil
	case "-":
		_, err := io.WriteString(stdout, text)
		return err
	}
	return os.WriteFile(path, []byte(text), 0o600)
}

// listFaults lists the faults of a whole stack.
func listFaults(stdout io.Writer) error {
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	for _, f := range slices.Concat(sim.Catalogue(), labFaults(nil)) {
		fmt.Fprintf(w, "%s\t%s\n", f.Name, f.Does)
	}
	return w.Flush()
}

// show says where everything listens.
func (l *lab) show(stdout io.Writer) {
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	for _, name := range l.stack.Services() {
		fmt.Fprintf(w, "%s\t%s\n", name, l.stack.Address(name))
	}
	for _, line := range l.databaseAddresses() {
		fmt.Fprintln(w, line)
	}
	fmt.Fprintf(w, "faults\thttp://%s/faults\n", l.control.Address)
	_ = w.Flush() // nobody may be reading
	for _, line := range l.missing {
		fmt.Fprintln(stdout, line)
	}
}
