package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"migrate/internal/atomicfile"
	"migrate/source"
	"migrate/target"
	"migrate/transport/pki"
)

type agentOptions struct {
	listen         string
	advertise      string
	allow          []string
	allowOperators []string
	store          string
	idle           time.Duration
	metrics        string
	bandwidth      int64
	cordon         bool
	config         string
	criu           string
	logFormat      string
	logLevel       string
}

const agentLong = `Serves this host: receives workloads, answers hosts that are in doubt, and
moves this host's own workloads away when an operator on another host says so.
It also finishes or rolls back what an earlier agent or a killed "migrate move"
left behind, at its start and every few seconds.

Peers are known by the names in their certificates. An agent restores processes
as root, so nobody is allowed unless named: --allow hosts that may send
workloads here, --allow-operator hosts that may also move this host's
workloads away.

Received pages wait in --store, which should be in memory. By default it is a
tmpfs of its own, as large as the memory, that the agent mounts on RUN-DIR/store
and unmounts at its end.

--metrics serves what Prometheus wants to know, in plain HTTP and to anybody who
can reach the address: best on the loopback interface.

The settings may be in a YAML file (--config), whose keys are the names of the
flags. On SIGHUP it is read again: who is allowed, the bandwidth, the cordon and
the log level change at once, for moves under way too; other changes need a new
start, and are logged.

Workloads do not depend on the agent: it can be stopped and started again. When
the environment has NOTIFY_SOCKET it tells systemd that it is ready.

Exit status:
  0  stopped by SIGINT or SIGTERM, or by SIGHUP without a configuration file
  1  the command line is wrong
  3  it could not begin: not root, no certificate, or an agent runs already
  4  it failed`

const agentExample = `  migrate agent --allow hostA --allow hostB
  migrate agent --listen 10.0.0.2:7420 --advertise hostB:7420 --allow hostA --allow-operator admin`

func newAgentCommand(a *app) *cobra.Command {
	var opts agentOptions
	cmd := &cobra.Command{
		Use:     "agent",
		Short:   "Serve this host: receive workloads",
		Long:    agentLong,
		Example: agentExample,
		Args:    exactly(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			given := givenFlags(cmd.Flags())
			file, err := readConfig(cmd.Flags(), opts.config)
			if err != nil {
				return err
			}
			if err := a.absolute(); err != nil { // the file may have named directories
				return err
			}
			opts.config = file
			return runAgent(cmd.Context(), a, &opts, given)
		},
	}
	bindAgent(cmd.Flags(), &opts)
	completeWords(cmd, "log-format", "text, json")
	completeWords(cmd, "log-level", "debug, info, warn, error")
	return cmd
}

// bindAgent adds the agent's flags, which are the keys of its configuration
// file as well.
func bindAgent(f *pflag.FlagSet, opts *agentOptions) {
	f.StringVar(&opts.listen, "listen", ":"+source.DefaultPort, "UDP address to listen on")
	f.StringVar(&opts.advertise, "advertise", "", "HOST:PORT at which other hosts reach this agent (default: this host's name and the port)")
	f.StringArrayVar(&opts.allow, "allow", nil, "host that may send workloads here; may be repeated")
	f.StringArrayVar(&opts.allowOperators, "allow-operator", nil, "host that may also move this host's workloads away; may be repeated")
	f.StringVar(&opts.store, "store", "", "directory for received pages (default: a tmpfs on RUN-DIR/store)")
	f.DurationVar(&opts.idle, "idle-timeout", idleTimeout(), "silence after which a peer counts as gone (or MIGRATE_IDLE_TIMEOUT)")
	f.Var((*rateFlag)(&opts.bandwidth), "bandwidth", "cap on the wire of each move that this agent drives, such as 100MiB (a second) or 1gbit; 0 is none")
	f.BoolVar(&opts.cordon, "cordon", false, "receive no workloads, as after \"migrate cordon\"")
	f.StringVar(&opts.metrics, "metrics", "", "HOST:PORT to serve Prometheus metrics on, such as 127.0.0.1:7421 (default: none)")
	f.StringVar(&opts.criu, "criu", "", "path of CRIU (default: the first that works; or MIGRATE_CRIU)")
	f.StringVar(&opts.logFormat, "log-format", "text", "form of the log on standard error: text or json")
	f.StringVar(&opts.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&opts.config, "config", "", "YAML `file` with these settings; the command line wins (default: "+defaultConfig+", if it is there)")
}

// idleTimeout is the default, or what the environment says; a value there that
// makes no sense is caught with the flags.
func idleTimeout() time.Duration {
	s := os.Getenv("MIGRATE_IDLE_TIMEOUT")
	if s == "" {
		return 6 * time.Second
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0
	}
	return d
}

// check refuses settings that cannot be meant, and completes the others.
func (o *agentOptions) check() error {
	for _, name := range append(slices.Clone(o.allow), o.allowOperators...) {
		if err := pki.CheckName(name); err != nil {
			return &usageError{err}
		}
	}
	_, port, err := net.SplitHostPort(o.listen)
	if err != nil {
		return usagef("--listen: %w", err)
	}
	if port == "" || port == "0" {
		return usagef("--listen %s: want a fixed port, which peers in doubt can call", o.listen)
	}
	if o.idle <= 0 {
		return usagef("--idle-timeout: must be more than zero")
	}
	if o.advertise == "" {
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		o.advertise = net.JoinHostPort(name, port)
	}
	if _, _, err := net.SplitHostPort(o.advertise); err != nil {
		return usagef("--advertise: %w", err)
	}
	return nil
}

// level reads --log-level.
func (o *agentOptions) level() (level slog.Level, err error) {
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return level, usagef("--log-level %q: want debug, info, warn or error", o.logLevel)
	}
	return level, nil
}

func (o *agentOptions) logger(a *app, level *slog.LevelVar) (*slog.Logger, error) {
	set := &slog.HandlerOptions{Level: level}
	switch o.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(a.stderr, set)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(a.stderr, set)), nil
	}
	return nil, usagef("--log-format %q: want text or json", o.logFormat)
}

func runAgent(ctx context.Context, a *app, opts *agentOptions, given map[string][]string) error {
	if err := opts.check(); err != nil {
		return err
	}
	l := &liveAgent{given: given, level: new(slog.LevelVar)}
	level, err := opts.level()
	if err != nil {
		return err
	}
	l.level.Set(level)
	log, err := opts.logger(a, l.level)
	if err != nil {
		return err
	}
	if err := needRoot("an agent restores processes"); err != nil {
		return err
	}
	id, err := a.identity()
	if err != nil {
		return &blockedError{err}
	}
	signals := stopSignals()
	if opts.config != "" { // SIGHUP is for reading it again
		signals = []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	}
	ctx, stop := interruptedBy(ctx, context.Canceled, func(int) { log.Info("stopping") }, signals...)
	defer stop()
	l.options.Store(opts)
	return a.serve(ctx, id, l, log)
}

// serve runs the agent until ctx ends. The local socket comes first: who has
// it is this run directory's only agent.
func (a *app) serve(ctx context.Context, id pki.Identity, l *liveAgent, log *slog.Logger) error {
	opts := *l.options.Load()
	info := agentInfo{Name: id.Name, Listen: opts.listen, Advertise: opts.advertise, PID: os.Getpid(), Started: time.Now()}
	local, err := listenLocal(ctx, a.runDir)
	if err != nil {
		return &blockedError{err}
	}
	defer local.Close()
	release, err := a.openStore(&opts, log)
	if err != nil {
		return err
	}
	defer release()
	info.Store = opts.store
	side, err := a.sourceSide(id, opts, log)
	if err == nil {
		l.side, side.live = side, l
		err = l.cordon(opts.cordon, false)
	}
	if err != nil {
		return err
	}
	agent, err := target.New(ctx, target.Config{
		Listen: opts.listen, Identity: id,
		Allow: l.allows, AllowOperator: l.allowsOperator,
		StateDir: a.stateDir, RunDir: a.runDir, Store: opts.store, CRIU: opts.criu,
		IdleTimeout: opts.idle, Source: side, Operator: side, Requested: side.requested, Logger: log,
	})
	if err != nil {
		return err
	}
	if len(opts.allow)+len(opts.allowOperators) == 0 {
		log.Warn("no host is allowed to talk to this agent; see --allow")
	}
	side.agent = agent
	stopMetrics, err := serveMetrics(ctx, opts.metrics, side.metrics, log)
	if err != nil {
		return &blockedError{err}
	}
	defer stopMetrics()
	defer l.reloadOnSignal(a, opts.config, log)()
	serveLocal(local, info, agent)
	recovering, stopRecovering := context.WithCancel(ctx)
	defer stopRecovering()
	go side.recover(recovering)
	defer removeAgentFile(a.runDir, info.PID)
	defer func() { _ = notify("STOPPING=1") }() // it sees the end itself
	return agent.Serve(ctx, func(address string) {
		if err := writeAgentFile(a.runDir, info); err != nil {
			log.Warn("moves from this host cannot tell where to ask", "cause", err)
		}
		if err := notify("READY=1"); err != nil {
			log.Warn("tell systemd", "cause", err)
		}
		log.Info("listening", "address", address, "name", id.Name, "store", opts.store)
	})
}

func (a *app) openStore(opts *agentOptions, log *slog.Logger) (release func(), err error) {
	if opts.store != "" {
		if opts.store, err = filepath.Abs(opts.store); err != nil {
			return nil, err
		}
		if ok, err := inMemory(opts.store); err == nil && !ok {
			log.Warn("the store is not in memory: moves take longer, and memory of workloads reaches a disk", "store", opts.store)
		}
		return func() {}, nil
	}
	opts.store = filepath.Join(a.runDir, "store")
	if err := mountStore(opts.store); err != nil {
		return nil, err
	}
	return func() {
		if err := unmountStore(opts.store); err != nil {
			log.Warn("leave the store mounted", "cause", err)
		}
	}, nil
}

// agentInfo is what an agent says about itself to commands on its host.
type agentInfo struct {
	Name      string    `json:"name"`      // in its certificate
	Listen    string    `json:"listen"`    // as asked for
	Advertise string    `json:"advertise"` // HOST:PORT for peers
	PID       int       `json:"pid"`
	Store     string    `json:"store"`
	Started   time.Time `json:"started"`
}

func agentFile(runDir string) string { return filepath.Join(runDir, "agent.json") }

// writeAgentFile leaves for "migrate move" where peers can ask this host. It
// is kept when an agent is killed: the next one will have the same address.
func writeAgentFile(runDir string, info agentInfo) error {
	b, err := marshalLine(info)
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(agentFile(runDir), b, 0o600)
}

func removeAgentFile(runDir string, pid int) {
	if info, err := readAgentFile(runDir); err == nil && info.PID == pid {
		_ = os.Remove(agentFile(runDir)) // a stale one does no harm
	}
}

// agentAddress returns where peers can ask this host, "" if it has no agent.
func agentAddress(runDir string) string {
	info, err := readAgentFile(runDir)
	if err != nil {
		return ""
	}
	return info.Advertise
}

// notify tells a service manager the state of the agent, as sd_notify(3).
func notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"}) // "@" is abstract
	if err != nil {
		return fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	_, err = conn.Write([]byte(state))
	return errors.Join(err, conn.Close())
}

// reloading is what a service manager wants to hear before a configuration is
// read again: sd_notify(3) asks for the time, too.
func reloading() string {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // never fails
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000)
}
