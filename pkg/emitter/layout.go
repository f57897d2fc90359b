package emitter

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// Layout says where the messages of a stream that is not laid out as ours have stream id and event type.
// The zero value is ours: headers ce-subject and ce-type or, where they are missing, the last two tokens of
// the subject.
type Layout struct {
	StreamToken  int    // token of the subject, from 1; 0: none
	TypeToken    int    // token of the subject, from 1; 0: none
	StreamHeader string // goes before the token
	TypeHeader   string // goes before the token
}

// ErrLayout is returned for a layout that names a negative token.
var ErrLayout = errors.New("token numbers count from 1")

// Validate returns what is wrong with the layout, or nil.
func (l Layout) Validate() error {
	if l.StreamToken < 0 || l.TypeToken < 0 {
		return fmt.Errorf("stream token %d, type token %d: %w", l.StreamToken, l.TypeToken, ErrLayout)
	}
	return nil
}

// apply writes what the layout finds to the headers that an event is read from, once these are in binary
// mode, and returns the data. What it does not find stays as it is.
func (l Layout) apply(subject string, h nats.Header, data []byte) ([]byte, error) {
	if l == (Layout{}) {
		return data, nil
	}
	data, err := event.Unpack(h, data)
	if err != nil {
		return nil, err
	}
	set := func(to, header string, token int) {
		name := tokenOf(subject, token)
		if v := valueOf(h, header); v != "" {
			name = v
		}
		if name != "" {
			h[to] = []string{event.EncodeValue(name)}
		}
	}
	set(event.SubjectHeader, l.StreamHeader, l.StreamToken)
	set(event.TypeHeader, l.TypeHeader, l.TypeToken)
	return data, nil
}

// valueOf is the value of a header that the layout names, which may be an attribute's.
func valueOf(h nats.Header, header string) string {
	if name, ok := strings.CutPrefix(strings.ToLower(header), "ce-"); ok {
		return event.AttributeIn(h, name)
	}
	return h.Get(header)
}

// tokenOf is the subject's n-th token, decoded where it is encoded by our rule, and as it is where not.
func tokenOf(subject string, n int) string {
	for ; n > 1; n-- {
		_, rest, ok := strings.Cut(subject, ".")
		if !ok {
			return ""
		}
		subject = rest
	}
	if n < 1 {
		return ""
	}
	token, _, _ := strings.Cut(subject, ".")
	if name, err := subscription.DecodeToken(token); err == nil {
		return name
	}
	return token
}
