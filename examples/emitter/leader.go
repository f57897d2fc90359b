package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// wanted says which message of a stream: the first from Seq on whose subject fits NextFor, or the last with
// subject LastFor.
type wanted struct {
	Seq     uint64 `json:"seq,omitempty"`
	NextFor string `json:"next_by_subj,omitempty"`
	LastFor string `json:"last_by_subj,omitempty"`
}

// get asks the stream's leader for a message; jetstream.ErrMsgNotFound: there is none. nats.go's GetMsg and
// its key-value Get are answered by any replica, which may lag, or by a mirror, which may be filtered; and
// they take a message without data and with a header Status for an error ("Events").
func (e *emitter) get(ctx context.Context, stream string, w wanted) (*jetstream.RawStreamMsg, error) {
	body, err := json.Marshal(w)
	if err != nil {
		return nil, err
	}
	m, err := e.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, body)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Headers []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return nil, fmt.Errorf("a message of %s: %w", stream, err)
	}
	if answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
		return nil, jetstream.ErrMsgNotFound
	} else if answer.Error != nil {
		return nil, answer.Error
	}
	found := &jetstream.RawStreamMsg{Subject: answer.Message.Subject, Sequence: answer.Message.Seq, Data: answer.Message.Data, Time: answer.Message.Time}
	if len(answer.Message.Headers) > 0 {
		found.Header, err = nats.DecodeHeadersMsg(answer.Message.Headers)
	}
	return found, err
}

// checkpointOf reads the record under a key of exesdb_checkpoints; jetstream.ErrKeyNotFound: there is none,
// or it was deleted.
func (e *emitter) checkpointOf(ctx context.Context, key string) (data []byte, revision uint64, err error) {
	m, err := e.get(ctx, "KV_exesdb_checkpoints", wanted{LastFor: "$KV.exesdb_checkpoints." + key})
	if err == jetstream.ErrMsgNotFound || err == nil && (m.Header.Get("KV-Operation") != "" || m.Header.Get("Nats-Marker-Reason") != "") {
		return nil, 0, jetstream.ErrKeyNotFound
	}
	if err != nil {
		return nil, 0, err
	}
	return m.Data, m.Sequence, nil
}
