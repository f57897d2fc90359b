package subscription

import (
	"errors"
	"fmt"
	"strings"
)

// Type says what a subscription's selector picks by.
type Type string

// The four types, as they stand in keys and records.
const (
	ByStream       Type = "by_stream"        // selector: a stream id, or $all
	ByEventType    Type = "by_event_type"    // selector: an event type
	ByEventPattern Type = "by_event_pattern" // selector: a JSON object that the event's attributes contain
	ByEventPayload Type = "by_event_payload" // selector: a JSON object that the event's JSON data contains
)

// Types lists every type, in the order of the documentation.
func Types() []Type { return []Type{ByStream, ByEventType, ByEventPattern, ByEventPayload} }

// IsJSON reports whether the type's selectors are JSON objects.
func (t Type) IsJSON() bool { return t == ByEventPattern || t == ByEventPayload }

// MaxKeyLength bounds a registration's key, in bytes. NATS reads a protocol line of at most 4,096 bytes by
// default (max_control_line), which has to hold the key twice (subject and reply) with room to spare.
const MaxKeyLength = 1024

// Errors that Validate and ParseKey return, wrapped with what they are about.
var (
	// ErrUnknownType is returned for a type that is none of Types.
	ErrUnknownType = errors.New("unknown subscription type")
	// ErrBadSelector is returned for a pattern or payload selector that is no JSON object.
	ErrBadSelector = errors.New("selector is not a JSON object")
	// ErrBadStartVersion is returned for a start version below -1.
	ErrBadStartVersion = errors.New("start version below -1")
	// ErrKeyTooLong is returned where the key would exceed MaxKeyLength.
	ErrKeyTooLong = errors.New("registration key too long")
	// ErrBadKey is returned for a key that is not <store>.<type>.<selector>.<name>.
	ErrBadKey = errors.New("malformed registration key")
)

// OnGap is what a subscription does where events that it did not have yet are gone.
type OnGap string

// The two ways.
const (
	Continue OnGap = ""      // go on behind them
	Pause    OnGap = "pause" // hold there until an operator lets it go on
)

// Subscription is durable intent: which events of a store, from where on, under which name.
// Store and Name identify it; Type, Selector and StartVersion can change under the same name.
type Subscription struct {
	Store    string `json:"store"`
	Type     Type   `json:"type"`
	Selector string `json:"selector"`
	Name     string `json:"name"`
	// StartVersion is where a subscription without a checkpoint begins: 0 at the first event, -1 with new
	// ones only, n at the store's sequence n.
	StartVersion int64 `json:"start_version"`
	// OnGap is what to do where events were removed from the store before the subscription had them.
	OnGap OnGap `json:"on_gap,omitempty"`
}

// Key is the subscription's key in the registry: <store>.<type>.<selector>.<name>, each part one token.
func (s Subscription) Key() string {
	return EncodeToken(s.Store) + "." + string(s.Type) + "." + EncodeToken(s.Selector) + "." + EncodeToken(s.Name)
}

// String names the subscription for people: store/name.
func (s Subscription) String() string { return s.Store + "/" + s.Name }

// Validate returns what keeps the subscription from being registered, or nil.
func (s Subscription) Validate() error {
	switch {
	case s.Store == "":
		return fmt.Errorf("store: %w", ErrEmptyName)
	case s.Name == "":
		return fmt.Errorf("name: %w", ErrEmptyName)
	case s.Selector == "":
		return fmt.Errorf("selector: %w", ErrEmptyName)
	case s.StartVersion < -1:
		return fmt.Errorf("start_version %d: %w", s.StartVersion, ErrBadStartVersion)
	}
	if err := s.Type.validate(s.Selector); err != nil {
		return err
	}
	if n := len(s.Key()); n > MaxKeyLength {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrKeyTooLong, n, MaxKeyLength)
	}
	return nil
}

func (t Type) validate(selector string) error {
	switch t {
	case ByStream, ByEventType:
		return nil
	case ByEventPattern, ByEventPayload:
		value, _ := DecodeJSON([]byte(selector))
		if _, isObject := value.(map[string]any); !isObject {
			return fmt.Errorf("selector %q of type %s: %w", selector, t, ErrBadSelector)
		}
		return nil
	default:
		return fmt.Errorf("%w %q", ErrUnknownType, string(t))
	}
}

// ParseKey reads a registration's key. StartVersion is not part of the key and stays 0.
func ParseKey(key string) (Subscription, error) {
	tokens := strings.Split(key, ".")
	if len(tokens) != 4 {
		return Subscription{}, fmt.Errorf("%w %q: %d tokens, not 4", ErrBadKey, key, len(tokens))
	}
	var names [4]string
	for i, token := range tokens {
		name, err := DecodeToken(token)
		if err != nil {
			return Subscription{}, fmt.Errorf("%w %q: %w", ErrBadKey, key, err)
		}
		names[i] = name
	}
	s := Subscription{Store: names[0], Type: Type(names[1]), Selector: names[2], Name: names[3]}
	if err := s.Validate(); err != nil {
		return Subscription{}, fmt.Errorf("%w %q: %w", ErrBadKey, key, err)
	}
	return s, nil
}

// NamedBy reports whether an emitter's topic names this subscription. The forms are ExESDB's: a bare
// selector ($all among them), $<name>, *<name>-<selector>. The empty topic names every subscription.
func (s Subscription) NamedBy(topic string) bool {
	switch {
	case topic == "" || topic == s.Selector:
		return true
	case topic[0] == '$':
		return topic[1:] == s.Name
	case topic[0] == '*':
		return topic[1:] == s.Name+"-"+s.Selector
	default:
		return false
	}
}
