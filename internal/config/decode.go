package config

import (
	"reflect"
	"strconv"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// decoder walks the schema, the syntax tree and the environment side by side. What is wrong goes to its
// findings, and does not stop it.
type decoder struct {
	getenv  func(string) (string, bool)
	found   *findings
	folds   folds
	fromEnv int // values taken from the environment
}

// group reads a map into a struct that holds its defaults. Where the file has none, n is nil, and the
// environment still counts.
func (d *decoder) group(fields []field, n ast.Node, path string, v reflect.Value) {
	entries := d.entries(fields, n, path)
	for _, f := range fields {
		d.field(f, entries[f.name], child(path, f.name), v.Field(f.index), v)
	}
}

func (d *decoder) field(f field, e entry, path string, v, around reflect.Value) {
	n := e.value
	if n != nil {
		d.found.places[path] = e.at
	}
	switch f.kind {
	case group:
		d.group(f.fields, n, path, v)
	case optional:
		d.optional(f, n, path, v)
	case list:
		start := reflect.Value{}
		if f.from != "" {
			start = around.FieldByName(f.from)
		}
		d.list(f, n, path, v, start)
	default:
		d.scalar(f, n, path, v)
	}
}

// optional makes the struct if the file has it, an element started with it, or the environment sets one of
// its fields.
func (d *decoder) optional(f field, n ast.Node, path string, v reflect.Value) {
	wasThere := !v.IsNil()
	if !wasThere {
		v.Set(reflect.New(v.Type().Elem()))
		setDefaults(f.fields, v.Elem())
	}
	before := d.fromEnv
	d.group(f.fields, n, path, v.Elem())
	if !wasThere && isEmpty(n) && d.fromEnv == before {
		v.SetZero()
	}
}

// isEmpty reports whether a node is as good as left out.
func isEmpty(n ast.Node) bool {
	_, null := n.(*ast.NullNode)
	return n == nil || null
}

func (d *decoder) list(f field, n ast.Node, path string, v, start reflect.Value) {
	var elements []ast.Node
	switch n := n.(type) {
	case nil, *ast.NullNode:
	case *ast.SequenceNode:
		elements = n.Values
	default:
		d.refuse(d.placeOf(n), path, f.wanted()+" is wanted", n)
	}
	for i, e := range elements {
		at := element(path, i)
		d.found.places[at] = d.placeOf(e)
		item := reflect.New(v.Type().Elem()).Elem()
		setDefaults(f.fields, item)
		if start.IsValid() {
			copyFields(item, start)
		}
		d.group(f.fields, e, at, item)
		v.Set(reflect.Append(v, item))
	}
}

// copyFields copies the fields that both structs have, and what their pointers point to.
func copyFields(to, from reflect.Value) {
	for i := range from.NumField() {
		field, value := to.FieldByName(from.Type().Field(i).Name), from.Field(i)
		if value.Kind() == reflect.Pointer && !value.IsNil() {
			value = reflect.New(value.Type().Elem())
			value.Elem().Set(from.Field(i).Elem())
		}
		field.Set(value)
	}
}

// scalar takes the environment's value over the file's. A mistake in the file is one even where it is
// overridden.
func (d *decoder) scalar(f field, n ast.Node, path string, v reflect.Value) {
	if n != nil {
		if s, ok := d.text(f, n, path); ok {
			d.set(f, s, d.found.places[path], path, v)
		}
	}
	name := variable(path)
	if s, ok := d.getenv(name); ok {
		d.found.places[path] = place{variable: name}
		d.fromEnv++
		d.set(f, s, d.found.places[path], path, v)
	}
	if f.required && v.IsZero() && !d.found.bad[path] && !d.found.bad[parent(path)] {
		d.found.report(d.found.near(path), path, "is required and must not be empty; write it like %s", f.sample("example"))
	}
}

func (d *decoder) set(f field, s string, at place, path string, v reflect.Value) {
	value, err := f.parse(s)
	if err == nil {
		err = f.check(s, value)
	}
	if err != nil {
		d.found.report(at, path, "%v", err)
		return
	}
	v.Set(value.Convert(v.Type()))
}

// text is a scalar as it is written. A quoted number is text, and a text that looks like a number has to be
// quoted, so that nobody finds 1e3 or 010 turned into something else.
func (d *decoder) text(f field, n ast.Node, path string) (string, bool) {
	at := d.found.places[path]
	switch n := n.(type) {
	case *ast.NullNode:
		d.found.report(at, path, "has no value; write %s, or leave the key out", f.wanted())
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.StringNode:
		quoted := n.Token.Type == token.DoubleQuoteType || n.Token.Type == token.SingleQuoteType
		if quoted && (f.kind == number || f.kind == boolean) {
			if _, err := f.parse(n.Value); err == nil {
				d.found.report(at, path, "%s is text and %s is wanted; write %s, without quotes", quote(n.Value), f.wanted(), n.Value)
				return "", false
			}
		}
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		s := n.GetToken().Value
		if f.kind != text || len(f.oneOf) > 0 {
			return s, true
		}
		d.found.report(at, path, "%s is %s and text is wanted; write %s, in quotes", s, describe(n), strconv.Quote(s))
	default:
		d.refuse(at, path, f.wanted()+" is wanted", n)
	}
	return "", false
}
