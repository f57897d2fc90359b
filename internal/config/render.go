package config

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
)

const header = `# The configuration of subproxy: every setting with its default, and the store of the built-in example.
# What is left out keeps its default. The last line of each comment has the kind of value, its range and the environment
# variable that overrides it; in a list the variable has the element's index, counted from 0. Durations are written like
# 300ms, 15s or 1m30s. Settings that begin with # are off; take the # away to switch them on. "subproxy check --config FILE"
# finds mistakes.
`

// WriteDefaults writes a complete commented configuration. Parse makes Greenhouse of it.
func WriteDefaults(w io.Writer) error {
	c := Greenhouse()
	c.Instance.Name = "" // the reader's host is another one
	r := renderer{comments: true}
	r.group(schema, reflect.ValueOf(c).Elem(), "", "")
	if _, err := io.Copy(w, io.MultiReader(strings.NewReader(header), &r.out)); err != nil {
		return fmt.Errorf("write the default configuration: %w", err)
	}
	return nil
}

// renderer writes a value of the schema as YAML.
type renderer struct {
	out      bytes.Buffer
	comments bool
	isOff    bool // settings are commented out, after off
	off      string
	dash     bool // the next setting begins an element of a list
}

func (r *renderer) group(fields []field, v reflect.Value, path, indent string) {
	for _, f := range fields {
		at, value := child(path, f.name), v.Field(f.index)
		if path == "" && r.comments {
			r.out.WriteByte('\n')
		}
		r.comment(f, at, indent)
		switch f.kind {
		case group:
			r.line(indent, f.name+":")
			r.group(f.fields, value, at, indent+"  ")
		case optional:
			r.optional(f, value, at, indent)
		case list:
			r.list(f, value, at, indent)
		default:
			r.line(indent, f.name+": "+f.render(value))
		}
	}
}

// optional shows what could be there, once, where nothing is.
func (r *renderer) optional(f field, v reflect.Value, path, indent string) {
	settings := func(v reflect.Value) {
		r.line(indent, f.name+":")
		r.group(f.fields, v, path, indent+"  ")
	}
	if !v.IsNil() {
		settings(v.Elem())
	} else if r.comments {
		r.switchedOff(indent, func() { settings(exampleOf(f, v.Type().Elem())) })
	}
}

// list comments on its first element, which stands for the others.
func (r *renderer) list(f field, v reflect.Value, path, indent string) {
	settings := func(v reflect.Value, i int) {
		r.dash = true
		r.group(f.fields, v, element(path, i), indent+"    ")
	}
	if v.Len() == 0 {
		r.line(indent, f.name+": # none")
		r.switchedOff(indent, func() { settings(exampleOf(f, v.Type().Elem()), 0) })
		return
	}
	r.line(indent, f.name+":")
	comments := r.comments
	for i := range v.Len() {
		settings(v.Index(i), i)
		r.comments = false
	}
	r.comments = comments
}

func (r *renderer) switchedOff(indent string, write func()) {
	r.isOff, r.off = true, indent
	write()
	r.isOff = false
}

func (r *renderer) line(indent, setting string) {
	if r.dash {
		indent, r.dash = strings.TrimSuffix(indent, "  ")+"- ", false
	}
	if r.isOff {
		indent = r.off + "#" + strings.TrimPrefix(indent, r.off)
	}
	fmt.Fprintf(&r.out, "%s%s\n", indent, setting)
}

func (r *renderer) comment(f field, path, indent string) {
	if !r.comments {
		return
	}
	if r.dash {
		indent = strings.TrimSuffix(indent, "  ")
	}
	if r.isOff {
		indent = r.off
	}
	fmt.Fprintf(&r.out, "%s# %s\n", indent, f.doc)
	if f.kind >= group {
		return
	}
	about := f.wanted()
	switch {
	case len(f.oneOf) > 0:
		about = "one of " + strings.Join(f.oneOf, ", ")
	case f.min != "" || f.max != "":
		about += ", " + f.rangeText()
	}
	if f.required && f.fallback == "" {
		about += "; required"
	}
	if f.fallback != "" {
		about += "; default " + f.fallback
	}
	fmt.Fprintf(&r.out, "%s# %s; %s\n", indent, about, variable(path))
}

// exampleOf is a struct with its defaults and, where there are none, its examples.
func exampleOf(f field, t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	setDefaults(f.fields, v)
	for _, f := range f.fields {
		if value, err := f.parse(f.example); err == nil && f.example != "" {
			v.Field(f.index).Set(value.Convert(v.Field(f.index).Type()))
		}
	}
	return v
}

// plainText needs no quotes in YAML.
var plainText = regexp.MustCompile(`^[A-Za-z_$][A-Za-z0-9_$./-]*(:[A-Za-z0-9_$./-]+)*$`)

// render writes a scalar as the file has it, and a default as its tag has it: 60s rather than 1m0s.
func (f field) render(v reflect.Value) string {
	if def, err := f.parse(f.fallback); err == nil && def.Convert(v.Type()).Equal(v) && f.kind == duration {
		return f.fallback
	}
	switch s := fmt.Sprint(v.Interface()); {
	case f.kind != text || plainText.MatchString(s) && s != "true" && s != "false" && s != "null":
		return s
	case strings.Contains(s, `"`) && !strings.Contains(s, "'"):
		return "'" + s + "'"
	default:
		return strconv.Quote(s)
	}
}
