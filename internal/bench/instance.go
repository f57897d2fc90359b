package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/pprof"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/internal/config"
	"github.com/exesdb/subproxy/internal/service"
	"github.com/exesdb/subproxy/pkg/registration"
)

// InstanceCommand is the hidden sub-command with which Scale runs its own executable: an instance, or a
// bare connection, in a process of its own, so that what it takes is not mixed with what the server and the
// bench take. A program, or a TestMain, whose first argument it is calls RunInstance with its standard
// input and output.
const InstanceCommand = "bench-instance"

// instanceConfig goes to the child as one line of JSON on its standard input. Every line that follows asks
// for its usage.
type instanceConfig struct {
	URL           string `json:"url"`
	Subscriptions int    `json:"subscriptions"` // 0: a bare connection
	Replicas      int    `json:"replicas"`
	CPUProfile    string `json:"cpu_profile,omitempty"`
}

// instanceReport is a line of JSON from the child: one of its fields.
type instanceReport struct {
	Registered *registered `json:"registered,omitempty"`
	Usage      *usageSoFar `json:"usage,omitempty"`
	Error      string      `json:"error,omitempty"`
}

// usageSoFar is what the child used since it began. Messages are counted by the instance's connections: all
// that it sent or got, whatever for.
type usageSoFar struct {
	CPU      time.Duration `json:"cpu"` // user and system
	In       uint64        `json:"in"`
	Out      uint64        `json:"out"`
	Verified int           `json:"verified"` // proxies that are, now
}

// RunInstance runs what its standard input says until that is closed, or ctx ends; then it stops as on
// SIGTERM.
func RunInstance(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asks := json.NewDecoder(in)
	var c instanceConfig
	if err := asks.Decode(&c); err != nil {
		return fmt.Errorf("read the instance's configuration: %w", err)
	}
	if c.CPUProfile != "" {
		file, err := os.Create(c.CPUProfile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	reports := make(chan instanceReport, 1<<12) // the loops that report must not wait
	written := make(chan error, 1)
	go func() { written <- write(out, reports) }() // ends with reports, and is waited for below
	usage, stop, err := begin(ctx, &c, reports)
	if err != nil {
		reports <- instanceReport{Error: err.Error()}
		close(reports)
		<-written
		return err
	}
	go func() {
		defer cancel()
		for ask := ""; asks.Decode(&ask) == nil; {
			reports <- instanceReport{Usage: usage(ctx)}
		}
	}()
	<-ctx.Done()
	stop()
	return nil // with what is still to be written: nobody reads any more
}

func write(out io.Writer, reports <-chan instanceReport) error {
	lines := json.NewEncoder(out)
	for r := range reports {
		if err := lines.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// begin starts the instance, or the bare connection that it is compared with.
func begin(ctx context.Context, c *instanceConfig, reports chan<- instanceReport) (usage func(context.Context) *usageSoFar, stop func(), err error) {
	if c.Subscriptions == 0 {
		nc, err := nats.Connect(c.URL, nats.MaxReconnects(-1))
		if err != nil {
			return nil, nil, err
		}
		return func(context.Context) *usageSoFar {
			s := nc.Stats()
			return &usageSoFar{CPU: cpuTime(), In: s.InMsgs, Out: s.OutMsgs}
		}, nc.Close, nil
	}
	s, err := service.Start(ctx, service.Options{
		Config: scaleConfig(c.URL, c.Subscriptions, c.Replicas), Version: "0.0.0-bench", Logger: slog.New(slog.DiscardHandler),
		OnRegistered: func(_ string, cause registration.Cause, n int, at time.Time) {
			if cause != registration.Timer { // of an idle instance there would be a report for every few of them
				reports <- instanceReport{Registered: &registered{Cause: cause, N: n, At: at}}
			}
		},
	})
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context) *usageSoFar {
		u := &usageSoFar{CPU: cpuTime()}
		u.In, u.Out = s.Messages()
		summaries, err := s.Supervisor().Summaries(ctx)
		for i := range summaries {
			u.Verified += summaries[i].Verified
		}
		if err != nil {
			u.Verified = 0 // not known
		}
		return u
	}, func() { stopService(s) }, nil
}

// scaleConfig is the default configuration but for the subscriptions: timers and heartbeats are what an
// idle instance does.
func scaleConfig(url string, n, replicas int) *config.Config {
	c, b := config.Default(), benchConfig(url, n, replicas)
	c.NATS, c.Instance.Name, c.Registry.Replicas, c.Stores = b.NATS, b.Instance.Name, replicas, b.Stores
	c.Status.EmitterSilentAfter = b.Status.EmitterSilentAfter
	return c
}
