package testbed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/backoff"
)

// Backup is a snapshot of a stream, as nats stream backup makes it.
type Backup struct {
	stream        string
	config, state json.RawMessage
	chunks        [][]byte
}

// apiError is in the answer to a request that failed.
type apiError struct {
	Error *struct {
		Description string `json:"description"`
	} `json:"error"`
}

func (e *apiError) err() error {
	if e.Error == nil {
		return nil
	}
	return errors.New(e.Error.Description)
}

// BackUp takes a snapshot of a stream.
func BackUp(ctx context.Context, nc *nats.Conn, stream string) (*Backup, error) {
	b := &Backup{stream: stream}
	inbox := nc.NewInbox()
	chunks, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer func() { _ = chunks.Unsubscribe() }() // fails only if the connection is closed
	var answer struct {
		apiError
		Config json.RawMessage `json:"config"`
		State  json.RawMessage `json:"state"`
	}
	err = ask(ctx, nc, "$JS.API.STREAM.SNAPSHOT."+stream, map[string]any{"deliver_subject": inbox, "no_consumers": true}, &answer)
	if err = errors.Join(err, answer.err()); err != nil {
		return nil, fmt.Errorf("back up %s: %w", stream, err)
	}
	b.config, b.state = answer.Config, answer.State
	for {
		m, err := chunks.NextMsgWithContext(ctx)
		if err != nil {
			return nil, fmt.Errorf("back up %s: %w", stream, err)
		}
		if len(m.Data) == 0 {
			return b, nil
		}
		b.chunks = append(b.chunks, m.Data)
		if m.Reply == "" { // only some are acknowledged
			continue
		}
		if err := m.Respond(nil); err != nil {
			return nil, fmt.Errorf("back up %s: %w", stream, err)
		}
	}
}

// Restore makes the stream again, which must not be there.
func (b *Backup) Restore(ctx context.Context, nc *nats.Conn) error {
	var answer struct {
		apiError
		Deliver string `json:"deliver_subject"`
	}
	err := ask(ctx, nc, "$JS.API.STREAM.RESTORE."+b.stream, map[string]any{"config": b.config, "state": b.state}, &answer)
	if err = errors.Join(err, answer.err()); err != nil {
		return fmt.Errorf("restore %s: %w", b.stream, err)
	}
	for _, chunk := range b.chunks {
		if _, err := sendChunk(ctx, nc, answer.Deliver, chunk); err != nil {
			return fmt.Errorf("restore %s: %w", b.stream, err)
		}
	}
	m, err := sendChunk(ctx, nc, answer.Deliver, nil)
	if err != nil {
		return fmt.Errorf("restore %s: %w", b.stream, err)
	}
	var restored apiError
	if err := errors.Join(json.Unmarshal(m.Data, &restored), restored.err()); err != nil {
		return fmt.Errorf("restore %s: %w", b.stream, err)
	}
	return nil
}

const heardWithin = 20 * time.Second

// sendChunk sends a chunk, again where nobody listens: in a cluster, the client's server may hear later
// than the client that the server which restores does.
func sendChunk(ctx context.Context, nc *nats.Conn, subject string, chunk []byte) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, heardWithin)
	defer cancel()
	for {
		m, err := nc.RequestWithContext(ctx, subject, chunk)
		if !errors.Is(err, nats.ErrNoResponders) {
			return m, err
		}
		if backoff.Sleep(ctx, 10*time.Millisecond) != nil {
			return nil, err
		}
	}
}

func ask(ctx context.Context, nc *nats.Conn, subject string, request, answer any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	m, err := nc.RequestWithContext(ctx, subject, body)
	if err != nil {
		return err
	}
	return json.Unmarshal(m.Data, answer)
}
