package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"reflect"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/exesdb/subproxy/pkg/subscription"
)

// Load reads a configuration file; the environment overrides it. Mistakes are Problems.
func Load(path string, getenv func(string) (string, bool)) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	return Parse(path, data, getenv)
}

// Parse reads a configuration; file only names it in problems. Mistakes are Problems.
func Parse(file string, data []byte, getenv func(string) (string, bool)) (*Config, error) {
	d := &decoder{file: file, getenv: getenv, targets: map[*ast.AliasNode]ast.Node{}, places: map[string]*token.Position{}, given: map[string]bool{}}
	tree, err := parse(bytes.TrimPrefix(data, []byte("\ufeff"))) // a byte order mark, which some editors write
	if err != nil {
		return nil, Problems{d.syntax(err)}
	}
	root := d.document(tree)
	if root != nil {
		ast.Walk(&aliases{anchors: map[string]ast.Node{}, targets: d.targets}, root)
	}
	c := &Config{}
	d.value(root, reflect.ValueOf(c).Elem(), "", "")
	d.complete(c)
	d.crossCheck(c)
	if len(d.problems) > 0 {
		d.problems.sort()
		return nil, d.problems
	}
	return c, nil
}

// document is the only document that holds anything; nil where none does.
func (d *decoder) document(tree *ast.File) (root ast.Node) {
	for _, doc := range tree.Docs {
		switch doc.Body.(type) {
		case nil, *ast.NullNode, *ast.CommentGroupNode:
			continue
		}
		if root != nil {
			d.report("", position(doc.Body), "a second document; a configuration is one")
			break
		}
		root = doc.Body
	}
	return root
}

// parse turns a panic of the parser into an error: a configuration must not end a running service.
func parse(data []byte) (tree *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("not YAML: %v", r)
		}
	}()
	return parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
}

func (d *decoder) syntax(err error) Problem {
	p := Problem{File: d.file, Line: 1, Column: 1, Message: err.Error()}
	var located yaml.Error
	if errors.As(err, &located) {
		p.Message = "not YAML: " + located.GetMessage()
		if t := located.GetToken(); t != nil && t.Position != nil {
			p.Line, p.Column = t.Position.Line, t.Position.Column
		}
	}
	return p
}

// complete fills in what depends on something else than its own key.
func (d *decoder) complete(c *Config) {
	if c.Instance.Name == "" {
		c.Instance.Name = hostName()
	}
	for i := range c.Stores {
		store := &c.Stores[i]
		for j := range store.Subscriptions {
			s, path := &store.Subscriptions[j], fmt.Sprintf("stores[%d].subscriptions[%d]", i, j)
			if !d.given[path+".type"] {
				s.Type = store.Defaults.Type
			}
			if !d.given[path+".selector"] {
				s.Selector = store.Defaults.Selector
			}
			if !d.given[path+".start_version"] {
				s.StartVersion = store.Defaults.StartVersion
			}
			if s.Forward == nil && store.Defaults.Forward != nil {
				forward := *store.Defaults.Forward
				s.Forward = &forward
			}
		}
	}
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "subproxy"
	}
	return name
}

// crossCheck checks what concerns more than one key.
func (d *decoder) crossCheck(c *Config) {
	wrong := func(path, format string, args ...any) { d.report(path, d.place(path), format, args...) }
	if c.NATS.Context != "" && (d.given["nats.url"] || d.given["nats.credentials"]) {
		wrong("nats.context", "excludes url and credentials; keep one or the other")
	}
	if (c.NATS.TLS.Cert == "") != (c.NATS.TLS.Key == "") {
		wrong("nats.tls", "cert and key go together; give both or none")
	}
	t := c.SubscriptionProxy
	if t.FailureNotificationThreshold > t.MaxConsecutiveFailures {
		wrong("subscription_proxy.failure_notification_threshold", "%d is above max_consecutive_failures %d", t.FailureNotificationThreshold, t.MaxConsecutiveFailures)
	}
	if t.LeaderChangedSubject == t.EmitterRestartedSubject {
		wrong("subscription_proxy.emitter_restarted_subject", "is the same as leader_changed_subject; they must differ")
	}
	d.checkStores(c, wrong)
	for i, b := range c.Bridge.Streams {
		path := fmt.Sprintf("bridge.streams[%d]", i)
		d.required(path, "stream", b.Stream, wrong)
		if d.required(path, "store", b.Store, wrong) && !hasStore(c, b.Store) {
			wrong(path+".store", "%q is not the id of one of stores", b.Store)
		}
	}
}

// required reports a key that the file leaves out; an empty value that it gives was reported where it was read.
func (d *decoder) required(path, key, value string, wrong func(string, string, ...any)) bool {
	if value == "" && !d.given[join(path, key)] {
		wrong(path, "%s is missing", key)
	}
	return value != ""
}

func hasStore(c *Config, id string) bool {
	for _, s := range c.Stores {
		if s.ID == id {
			return true
		}
	}
	return false
}

func (d *decoder) checkStores(c *Config, wrong func(string, string, ...any)) {
	subscriptions := 0
	ids := map[string]string{}
	for i, store := range c.Stores {
		path := fmt.Sprintf("stores[%d]", i)
		if d.required(path, "id", store.ID, wrong) {
			if first, twice := ids[store.ID]; twice {
				wrong(path+".id", "%q is the id of the store in line %d already; no two stores share one", store.ID, d.place(first).Line)
			} else {
				ids[store.ID] = path + ".id"
			}
		}
		if store.Defaults.Forward != nil {
			d.required(path+".defaults.forward", "subject", store.Defaults.Forward.Subject, wrong)
		}
		names := map[string]string{}
		for j := range store.Subscriptions {
			subscriptions++
			d.checkSubscription(store, j, fmt.Sprintf("%s.subscriptions[%d]", path, j), names, wrong)
		}
	}
	if subscriptions == 0 {
		wrong("stores", "at least one store with at least one subscription is required; subproxy check --defaults prints an example")
	}
}

func (d *decoder) checkSubscription(store Store, j int, path string, names map[string]string, wrong func(string, string, ...any)) {
	s := store.Subscriptions[j]
	if d.required(path, "name", s.Name, wrong) {
		if first, twice := names[s.Name]; twice {
			wrong(path+".name", "%q is the name of the subscription in line %d already; names are unique within a store", s.Name, d.place(first).Line)
		} else {
			names[s.Name] = path + ".name"
		}
	}
	if s.Type == "" && !d.given[path+".type"] {
		wrong(path, "type is missing; one of by_stream, by_event_type, by_event_pattern, by_event_payload")
	}
	if s.Selector == "" {
		wrong(path+".selector", "selector is missing or empty; give it what the type picks by")
	}
	if s.Forward != nil {
		d.required(path+".forward", "subject", s.Forward.Subject, wrong)
	}
	sub := subscription.Subscription{Store: store.ID, Type: subscription.Type(s.Type), Selector: s.Selector, Name: s.Name, StartVersion: s.StartVersion}
	switch err := sub.Validate(); {
	case errors.Is(err, subscription.ErrBadSelector):
		wrong(path+".selector", "%q is not a JSON object, which type %s needs; write for example '{\"status\":\"on\"}'", s.Selector, s.Type)
	case errors.Is(err, subscription.ErrKeyTooLong):
		wrong(path, "%v; shorten the store id, the selector or the name", err)
	}
}
