package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/command"
	"github.com/exesdb/subproxy/internal/connect"
	"github.com/exesdb/subproxy/pkg/emitter"
	"github.com/exesdb/subproxy/pkg/event"
)

// line is one event of a file.
type line struct {
	Stream     string            `json:"stream"`
	Type       string            `json:"type"`
	ID         string            `json:"id"`
	Time       time.Time         `json:"time"`
	Attributes map[string]string `json:"attributes"` // CloudEvents extensions
	Data       json.RawMessage   `json:"data"`
}

type publishFlags struct {
	nats     natsFlags
	file     string
	id       string
	expected int64
	headers  []string
	replicas int
}

func newPublish() *cobra.Command {
	var f publishFlags
	cmd := &cobra.Command{
		Use: "publish STORE STREAM TYPE [DATA] | publish STORE --file FILE", Short: "Append events to a store's stream",
		Long: `Append one event to a store that is a JetStream stream, or a file of them, one JSON object a line:

  {"stream":"greenhouse-1","type":"initialized:v1","data":{"area":12},"attributes":{"tenant":"7"}}

id, time, attributes and data are optional. The store's stream is created if it is absent. Each event's sequence in the store is
printed. --expected-version refuses the append unless the stream id's last event has that sequence (0: there is none).`,
		Example: `  subproxy publish greenhouse_tycoon greenhouse-1 initialized:v1 '{"area":12}'
  subproxy publish greenhouse_tycoon greenhouse-1 renamed:v1 '{"name":"north"}' --expected-version 1
  subproxy publish greenhouse_tycoon --file events.jsonl`,
		Args: func(cmd *cobra.Command, given []string) error {
			if f.file != "" {
				return command.Args(1, 1, "a STORE and --file")(cmd, given)
			}
			return command.Args(3, 4, "STORE, STREAM, TYPE and perhaps DATA")(cmd, given)
		},
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	f.nats.add(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "file", "f", "", "`FILE` of events, one JSON object a line; - is standard input")
	flags.StringVar(&f.id, "id", "", "the event's `ID`; the same one again is not stored twice within the stream's duplicate window, that of another event is refused")
	flags.Int64Var(&f.expected, "expected-version", emitter.AnyVersion, "store `SEQUENCE` that the stream id's last event must have; 0: there must be none; -1: any")
	flags.StringArrayVarP(&f.headers, "header", "H", nil, "`NAME:VALUE` of a header, may be repeated; of an attribute (ce-…) percent-encoded or as it is")
	flags.IntVar(&f.replicas, "replicas", 1, "replicas of the stream, if it is created: 1, 3 or 5")
	return cmd
}

func (f *publishFlags) run(cmd *cobra.Command, args []string) error {
	header, err := parseHeaders(f.headers)
	if err != nil {
		return err
	}
	switch {
	case f.replicas != 1 && f.replicas != 3 && f.replicas != 5:
		return command.Usagef("--replicas: 1, 3 or 5, not %d", f.replicas)
	case f.expected < emitter.AnyVersion:
		return command.Usagef("--expected-version: a sequence, 0 or -1, not %d", f.expected)
	case f.file != "" && (f.expected != emitter.AnyVersion || f.id != ""):
		return command.Usagef("--expected-version and --id are for one event, not for --file")
	}
	ctx := cmd.Context()
	nc, js, err := f.nats.connect(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	if _, err := emitter.OpenStream(ctx, js, emitter.StreamConfig{Store: args[0], Replicas: f.replicas}); err != nil {
		return connect.Explain(err)
	}
	if f.file != "" {
		return f.appendFile(ctx, cmd, js, args[0], header)
	}
	l := line{Stream: args[1], Type: args[2], ID: f.id}
	if len(args) == 4 {
		l.Data = json.RawMessage(args[3])
	}
	return appendLine(ctx, cmd.OutOrStdout(), js, args[0], l, header, f.expected)
}

func parseHeaders(given []string) (nats.Header, error) {
	h := nats.Header{}
	for _, s := range given {
		name, value, ok := strings.Cut(s, ":")
		if !ok || name == "" {
			return nil, command.Usagef("--header %q: write NAME:VALUE", s)
		}
		if value = strings.TrimSpace(value); event.IsStructured(name, value) {
			return nil, command.Usagef("--header %q: that is an event in structured mode; give STREAM, TYPE and DATA instead, and the other attributes as --header ce-NAME:VALUE", s)
		}
		h.Add(name, value)
	}
	return h, nil
}

func (f *publishFlags) appendFile(ctx context.Context, cmd *cobra.Command, js jetstream.JetStream, store string, header nats.Header) error {
	in := cmd.InOrStdin()
	if f.file != "-" {
		file, err := os.Open(f.file)
		if err != nil {
			return err
		}
		defer file.Close()
		in = file
	}
	const longest = 8 << 20 // NATS takes no larger payload
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, longest)
	for n := 1; lines.Scan(); n++ {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		var l line
		d := json.NewDecoder(strings.NewReader(lines.Text()))
		d.DisallowUnknownFields()
		if err := d.Decode(&l); err != nil {
			return fmt.Errorf("%s:%d: %w; write {\"stream\":…,\"type\":…,\"data\":…}. The lines before it are stored", f.file, n, err)
		}
		if err := appendLine(ctx, cmd.OutOrStdout(), js, store, l, header, emitter.AnyVersion); err != nil {
			return fmt.Errorf("%s:%d: %w", f.file, n, err)
		}
	}
	return lines.Err()
}

func appendLine(ctx context.Context, out io.Writer, js jetstream.JetStream, store string, l line, header nats.Header, expected int64) error {
	if l.Stream == "" || l.Type == "" {
		return fmt.Errorf("an event needs a stream and a type")
	}
	e := event.Event{Store: store, Stream: l.Stream, Type: l.Type, ID: l.ID, Time: l.Time, Header: nats.Header{}, Data: l.Data, Source: "exesdb/" + store}
	for k, v := range header {
		e.Header[k] = v
	}
	for name, value := range l.Attributes {
		e.Header["ce-"+name] = []string{event.EncodeValue(value)}
	}
	if e.ID == "" {
		e.ID = nuid.Next()
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	data, err := event.Unpack(e.Header, e.Data)
	if err != nil {
		return command.Usagef("%w", err)
	}
	e.Data = data
	if _, given := e.Attribute("datacontenttype"); !given && json.Valid(e.Data) {
		e.Header[event.ContentTypeHeader] = []string{"application/json"}
	}
	sequence, err := emitter.Append(ctx, js, &e, expected)
	if err != nil {
		return connect.Explain(err)
	}
	fmt.Fprintf(out, "%d\t%s\t%s\t%s\n", sequence, e.Stream, e.Type, e.ID)
	return nil
}
