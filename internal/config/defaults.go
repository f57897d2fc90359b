package config

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// noEnvironment is a getenv that knows nothing.
func noEnvironment(string) (string, bool) { return "", false }

// Default is the configuration that an empty file stands for, which has no subscriptions yet.
func Default() *Config {
	d := &decoder{getenv: noEnvironment, given: map[string]bool{}}
	c := &Config{}
	d.value(nil, reflect.ValueOf(c).Elem(), "", "")
	d.complete(c)
	return c
}

// Greenhouse is the built-in example.
func Greenhouse() *Config {
	c := Default()
	c.Stores = []Store{{ID: "greenhouse_tycoon", Subscriptions: []Subscription{
		{Name: "greenhouse_initialized_to_pubsub_v1", Type: "by_event_type", Selector: "greenhouse_initialized:v1"},
		{Name: "temperature_measured_to_dashboard_v1", Type: "by_event_type", Selector: "temperature_measured:v1"},
		{Name: "greenhouse_1_history", Type: "by_stream", Selector: "greenhouse-1"},
		{Name: "audit", Type: "by_stream", Selector: "$all"},
		{Name: "overheated_to_alarm_v1", Type: "by_event_payload", Selector: `{"overheated":true}`},
	}}}
	return c
}

// WriteDefaults prints a complete commented configuration: every key with its default, range and environment variable,
// and the built-in example as its store.
func WriteDefaults(w io.Writer) error {
	var b bytes.Buffer
	b.WriteString("# subproxy's configuration: every key with its default. Leave out what you don't change.\n" +
		"# Durations are a number with its unit: ms, s, m, h. Each value can be overridden by the environment variable named.\n")
	example := Greenhouse()
	writeStruct(&b, reflect.ValueOf(*Default()), reflect.TypeFor[Config](), "", "")
	store := example.Stores[0]
	fmt.Fprintf(&b, "  - id: %s # SUBPROXY_STORES_0_ID, and likewise with the place of each element below\n", store.ID)
	b.WriteString("    # defaults: for what a subscription leaves out\n    #   type: by_event_type\n    #   start_version: 0\n    subscriptions:\n")
	for i, s := range store.Subscriptions {
		fmt.Fprintf(&b, "      - name: %s\n        type: %s\n        selector: '%s'\n", s.Name, s.Type, s.Selector)
		if i == 0 {
			writeComments(&b, reflect.TypeFor[Subscription](), "        ", map[string]bool{"name": true, "type": true, "selector": true, "forward": true})
			b.WriteString("        # forward: " + docOf(reflect.TypeFor[Subscription](), "forward") + "\n")
			writeComments(&b, reflect.TypeFor[Forward](), "        #   ", nil)
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

func docOf(t reflect.Type, key string) string {
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("yaml") == key {
			return f.Tag.Get("doc")
		}
	}
	return ""
}

// writeStruct prints the keys of a struct, each with its comment.
func writeStruct(b *bytes.Buffer, v reflect.Value, t reflect.Type, path, indent string) {
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("yaml")
		at := join(path, key)
		switch {
		case f.Type.Kind() == reflect.Struct:
			if indent == "" {
				b.WriteByte('\n')
			}
			fmt.Fprintf(b, "%s# %s\n%s%s:\n", indent, f.Tag.Get("doc"), indent, key)
			writeStruct(b, v.Field(i), f.Type, at, indent+"  ")
		case at == "stores":
			fmt.Fprintf(b, "\n# %s\nstores:\n", f.Tag.Get("doc"))
		case f.Type.Kind() == reflect.Slice:
			fmt.Fprintf(b, "%s%s: [] # %s; each element:\n", indent, key, f.Tag.Get("doc"))
			writeComments(b, f.Type.Elem(), indent+"#   ", nil)
		default:
			fmt.Fprintf(b, "%s%s: %s # %s; %s\n", indent, key, quote(f), bounded(f), variable(at))
		}
	}
}

// writeComments prints the keys of something optional, commented out.
func writeComments(b *bytes.Buffer, t reflect.Type, indent string, but map[string]bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		if key := f.Tag.Get("yaml"); !but[key] {
			fmt.Fprintf(b, "%s%s: %s # %s\n", indent, key, quote(f), bounded(f))
		}
	}
}

func quote(f reflect.StructField) string {
	if text := f.Tag.Get("default"); text != "" {
		return text
	}
	return `""`
}

// bounded is a key's description with its range.
func bounded(f reflect.StructField) string {
	text := f.Tag.Get("doc")
	if r := f.Tag.Get("range"); r != "" {
		least, most, _ := strings.Cut(r, "..")
		if most == "9223372036854775807" {
			return text + "; at least " + least
		}
		return text + "; " + least + " to " + most
	}
	if e := f.Tag.Get("enum"); e != "" {
		return text + "; " + strings.ReplaceAll(e, "|", ", ")
	}
	return text
}
