package feed

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// consumerIdle is how long the server keeps a consumer that is not read, because its reader is gone.
const consumerIdle = 10 * time.Second

// puller is an ephemeral pull consumer in memory, without acknowledgements. nats.go's own reading of one is
// not used: it takes a message without data that was stored with a header Status for a status of the
// server. What tells them apart is the reply subject, which every message has and no status.
type puller struct {
	api     api
	name    string
	marker  string // the name as it stands in a reply subject
	inbox   string
	sub     *nats.Subscription
	answers chan *nats.Msg
	closing sync.Once
	asked   int // messages that were asked for and did not come yet
}

// openPuller makes a consumer that begins at a sequence. Room is how many answers may wait to be read.
func openPuller(ctx context.Context, a api, prefix string, from uint64, room int) (*puller, error) {
	p := &puller{api: a, name: prefix + nuid.Next(), inbox: a.nc.NewInbox(), answers: make(chan *nats.Msg, room)}
	p.marker = "." + p.name + "."
	sub, err := a.nc.ChanSubscribe(p.inbox, p.answers)
	if err != nil {
		return nil, fmt.Errorf("subscribe %s: %w", p.inbox, err)
	}
	p.sub = sub
	_, err = a.js.CreateConsumer(ctx, a.stream, jetstream.ConsumerConfig{
		Name: p.name, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from, AckPolicy: jetstream.AckNonePolicy,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: consumerIdle,
	})
	if err != nil {
		_ = sub.Unsubscribe() // fails only if the connection is closed
		return nil, fmt.Errorf("create a consumer of %s: %w", a.stream, err)
	}
	return p, nil
}

// close may be called by any goroutine, and again. It does not wait: a consumer that the server does not
// hear of any more ends by itself.
func (p *puller) close() {
	p.closing.Do(func() {
		_ = p.sub.Unsubscribe()
		_ = p.api.nc.Publish(p.api.prefix+"CONSUMER.DELETE."+p.api.stream+"."+p.name, nil)
	})
}

// ask asks for so many messages more. Heartbeat 0 is none.
func (p *puller) ask(batch, maxBytes int, heartbeat time.Duration) error {
	p.asked += batch
	request := fmt.Appendf(nil, `{"batch":%d,"max_bytes":%d,"expires":%d,"idle_heartbeat":%d}`, batch, maxBytes, consumerIdle, heartbeat)
	return p.api.nc.PublishRequest(p.api.prefix+"CONSUMER.MSG.NEXT."+p.api.stream+"."+p.name, p.inbox, request)
}

func isStatus(m *nats.Msg) bool { return m.Reply == "" }

// unserved reads a status that ends a request: how many of its messages will not come. It is false for one
// that says nothing of it.
func unserved(m *nats.Msg) (left int, ok bool) {
	left, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
	return left, err == nil
}

func isHeartbeat(m *nats.Msg) bool { return m.Header.Get("Status") == "100" }

// place is where a message stands.
type place struct {
	sequence uint64
	delivery uint64 // the consumer's own count
	stored   time.Time
	pending  uint64 // messages that come after
}

// placeOf reads it from where the message would be acknowledged: $JS.ACK, perhaps domain and account, the
// stream and the consumer; how often it was delivered, its sequence, the delivery's, when it was stored,
// how many come after; perhaps more.
func (p *puller) placeOf(m *nats.Msg) (place, bool) {
	_, rest, _ := strings.Cut(m.Reply, p.marker)
	var number [5]uint64
	for i := range number {
		var token string
		token, rest, _ = strings.Cut(rest, ".")
		n, err := strconv.ParseUint(token, 10, 63)
		if err != nil {
			return place{}, false
		}
		number[i] = n
	}
	return place{sequence: number[1], delivery: number[2], stored: time.Unix(0, int64(number[3])).UTC(), pending: number[4]}, true
}

func (p place) message(m *nats.Msg) Message {
	return Message{Subject: m.Subject, Sequence: p.sequence, Time: p.stored, Header: m.Header, Data: m.Data}
}
