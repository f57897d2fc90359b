package config

import (
	"fmt"
	"reflect"
	"strconv"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// decoder walks the schema, the syntax tree and the environment side by side and collects what is wrong instead of
// stopping at it.
type decoder struct {
	file     string
	getenv   func(string) (string, bool)
	problems Problems
	warnings Problems
	reported map[Problem]bool // without paths: what many aliases share is one mistake

	places map[string]place // of every path that the file or the environment gives
	bad    map[string]bool  // paths with a problem: what depends on their values is not checked

	folds    folds
	aliases  map[*ast.AliasNode]target
	expanded int // entries visited by way of aliases
	inAlias  int
	fromEnv  int // values taken from the environment
}

// problem words what is at a place.
func (d *decoder) problem(at place, path, format string, args ...any) Problem {
	p := Problem{File: d.file, Line: at.line, Column: at.column, Path: path, Message: oneLine(fmt.Sprintf(format, args...))}
	if at.variable != "" {
		p.File, p.Message = "environment", at.variable+": "+p.Message
	}
	return p
}

func (d *decoder) report(at place, path, format string, args ...any) {
	p := d.problem(at, path, format, args...)
	d.bad[path] = true
	key := p
	key.Path = ""
	if d.reported[key] && d.inAlias > 0 {
		return
	}
	d.reported[key] = true
	d.problems = append(d.problems, p)
}

// warn is for what is taken as it is written. What many subscriptions share is one warning.
func (d *decoder) warn(at place, path, format string, args ...any) {
	p := d.problem(at, path, format, args...)
	p.Warning = true
	key := p
	key.Path = ""
	if d.reported[key] {
		return
	}
	d.reported[key] = true
	d.warnings = append(d.warnings, p)
}

// group reads a map into a struct that holds its defaults. Where the file has none, n is nil, and the environment still
// counts.
func (d *decoder) group(fields []field, n ast.Node, path string, v reflect.Value) {
	n, leave := d.enter(n, path)
	defer leave()
	entries := d.entries(fields, n, path)
	for _, f := range fields {
		e := entries[f.name]
		d.inAlias += e.inAlias
		d.field(f, e, child(path, f.name), v.Field(f.index), v)
		d.inAlias -= e.inAlias
	}
}

func (d *decoder) field(f field, e entry, path string, v, around reflect.Value) {
	n := e.value
	if n != nil {
		d.places[path] = e.at
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

// optional makes the struct if the file has it, an element started with it, or the environment sets one of its fields.
func (d *decoder) optional(f field, n ast.Node, path string, v reflect.Value) {
	wasThere := !v.IsNil()
	if !wasThere {
		v.Set(reflect.New(v.Type().Elem()))
		setDefaults(f.fields, v.Elem())
	}
	before := d.fromEnv
	d.group(f.fields, n, path, v.Elem())
	if !wasThere && d.isEmpty(n) && d.fromEnv == before {
		v.SetZero()
	}
}

func (d *decoder) list(f field, n ast.Node, path string, v, start reflect.Value) {
	n, leave := d.enter(n, path)
	defer leave()
	var elements []ast.Node
	switch n := n.(type) {
	case nil, *ast.NullNode:
	case *ast.SequenceNode:
		elements = n.Values
	default:
		d.report(d.placeOf(n), path, "%s is wanted, not %s", f.wanted(), describe(n))
	}
	for i, e := range elements {
		if !d.afford(e, path) {
			return
		}
		at := element(path, i)
		d.places[at] = d.placeOf(e)
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

// scalar takes the environment's value over the file's. A mistake in the file is one even where it is overridden.
func (d *decoder) scalar(f field, n ast.Node, path string, v reflect.Value) {
	if n != nil {
		if s, ok := d.text(f, n, path); ok {
			d.set(f, s, d.places[path], path, v)
		}
	}
	name := variable(path)
	if s, ok := d.getenv(name); ok {
		d.places[path] = place{variable: name}
		d.fromEnv++
		d.set(f, s, d.places[path], path, v)
	}
	if f.required && v.IsZero() && !d.bad[path] && !d.bad[parent(path)] {
		d.report(d.near(path), path, "is required and must not be empty; write it like %s", f.sample("example"))
	}
}

func (d *decoder) set(f field, s string, at place, path string, v reflect.Value) {
	value, err := f.parse(s)
	if err == nil {
		err = f.check(s, value)
	}
	if err != nil {
		d.report(at, path, "%v", err)
		return
	}
	v.Set(value.Convert(v.Type()))
}

// text is a scalar as it is written. A quoted number is text, and a text that looks like a number has to be quoted, so
// that nobody finds 1e3 or 010 turned into something else.
func (d *decoder) text(f field, n ast.Node, path string) (string, bool) {
	at := d.places[path]
	n, leave := d.enter(n, path)
	defer leave()
	switch n := n.(type) {
	case nil:
		return "", false // reported by enter
	case *ast.NullNode:
		d.report(at, path, "has no value; write %s, or leave the key out", f.wanted())
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.StringNode:
		quoted := n.Token.Type == token.DoubleQuoteType || n.Token.Type == token.SingleQuoteType
		if quoted && (f.kind == number || f.kind == boolean) {
			if _, err := f.parse(n.Value); err == nil {
				d.report(at, path, "%s is text and %s is wanted; write %s, without quotes", quote(n.Value), f.wanted(), n.Value)
				return "", false
			}
		}
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		s := n.GetToken().Value
		if f.kind != text || len(f.oneOf) > 0 {
			return s, true
		}
		d.report(at, path, "%s is %s and text is wanted; write %s, in quotes", s, describe(n), strconv.Quote(s))
	default:
		d.report(at, path, "%s is wanted, not %s", f.wanted(), describe(n))
	}
	return "", false
}

// near is the place of a path, or of the nearest thing around it that has one.
func (d *decoder) near(path string) place {
	for ; path != ""; path = parent(path) {
		if at, ok := d.places[path]; ok {
			return at
		}
	}
	return place{line: 1, column: 1}
}
