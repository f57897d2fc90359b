package config

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// maxWraps bounds what is taken off one value: an anchor, a tag, an alias. Nesting is bounded by the types, which an alias
// that contains itself can't make endless.
const maxWraps = 20

// decoder fills a value from a YAML tree and gathers every problem on the way.
type decoder struct {
	file     string
	getenv   func(string) (string, bool)
	problems Problems
	targets  map[*ast.AliasNode]ast.Node
	places   map[string]*token.Position // of everything that the file has
	given    map[string]bool            // scalars that the file or the environment gives
}

func (d *decoder) report(path string, at *token.Position, format string, args ...any) {
	p := Problem{File: d.file, Path: path, Message: fmt.Sprintf(format, args...)}
	if at != nil {
		p.Line, p.Column = at.Line, at.Column
	}
	d.problems = append(d.problems, p)
}

// place is where a path stands in the file, or its nearest parent does.
func (d *decoder) place(path string) *token.Position {
	for path != "" {
		if at := d.places[path]; at != nil {
			return at
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return &token.Position{Line: 1, Column: 1}
}

// value decodes node into v. A nil node is a key that the file leaves out: defaults and the environment still apply.
func (d *decoder) value(node ast.Node, v reflect.Value, tag reflect.StructTag, path string) {
	node = d.resolve(node, path)
	if node != nil {
		d.places[path] = position(node)
	}
	switch v.Kind() {
	case reflect.Struct:
		d.mapping(node, v, path)
	case reflect.Slice:
		d.sequence(node, v, path)
	case reflect.Pointer:
		if node != nil {
			v.Set(reflect.New(v.Type().Elem()))
			d.mapping(node, v.Elem(), path)
		}
	default:
		d.scalar(node, v, tag, path)
	}
}

// aliases finds what each alias stands for: the anchor of that name last before it in the file, which is not the order in
// which values are decoded.
type aliases struct {
	anchors map[string]ast.Node
	targets map[*ast.AliasNode]ast.Node
}

// Visit implements ast.Visitor.
func (a *aliases) Visit(node ast.Node) ast.Visitor {
	switch n := node.(type) {
	case *ast.AnchorNode:
		a.anchors[n.Name.String()] = n.Value
	case *ast.AliasNode:
		if target, ok := a.anchors[n.Value.String()]; ok {
			a.targets[n] = target
		}
	}
	return a
}

// position is where a node begins. The token of a mapping in block style is the colon behind its first key.
func position(node ast.Node) *token.Position {
	switch n := node.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return position(n.Values[0])
		}
	case *ast.MappingValueNode:
		return n.Key.GetToken().Position
	}
	return node.GetToken().Position
}

// resolve takes off what YAML wraps around a value. A null counts as left out.
func (d *decoder) resolve(node ast.Node, path string) ast.Node {
	for range maxWraps {
		switch n := node.(type) {
		case *ast.AnchorNode:
			node = n.Value
		case *ast.AliasNode:
			target, ok := d.targets[n]
			if !ok {
				d.report(path, n.GetToken().Position, "alias *%s has no anchor before it", n.Value)
			}
			node = target
		case *ast.TagNode:
			node = n.Value
		case *ast.NullNode:
			return nil
		default:
			return node
		}
	}
	return nil
}

func (d *decoder) mapping(node ast.Node, v reflect.Value, path string) {
	values := map[string]ast.Node{}
	switch n := node.(type) {
	case nil:
	case *ast.MappingNode:
		for _, entry := range n.Values {
			d.entry(entry, v.Type(), path, values)
		}
	case *ast.MappingValueNode:
		d.entry(n, v.Type(), path, values)
	default:
		d.report(path, node.GetToken().Position, "%s is not a mapping; write its keys below it: %s", describe(node), strings.Join(keys(v.Type()), ", "))
	}
	for i := range v.NumField() {
		field := v.Type().Field(i)
		key := field.Tag.Get("yaml")
		d.value(values[key], v.Field(i), field.Tag, join(path, key))
	}
}

func (d *decoder) entry(entry *ast.MappingValueNode, t reflect.Type, path string, values map[string]ast.Node) {
	at := entry.Key.GetToken().Position
	if entry.Key.IsMergeKey() {
		d.report(path, at, "merge keys (<<) are not read here; give a store defaults, or repeat the keys")
		return
	}
	name := strings.TrimSpace(entry.Key.GetToken().Value)
	known := keys(t)
	for _, k := range known {
		if k != name {
			continue
		}
		if _, twice := values[name]; twice {
			d.report(join(path, name), at, "given twice; keep one")
			return
		}
		values[name] = entry.Value
		return
	}
	if like := nearest(name, known); like != "" {
		d.report(join(path, name), at, "unknown key; did you mean %s?", like)
		return
	}
	d.report(join(path, name), at, "unknown key; known are %s", strings.Join(known, ", "))
}

func (d *decoder) sequence(node ast.Node, v reflect.Value, path string) {
	if node == nil {
		return
	}
	n, ok := node.(*ast.SequenceNode)
	if !ok {
		d.report(path, position(node), "%s is not a list; begin each element with a dash", describe(node))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Values), len(n.Values)))
	for i, element := range n.Values {
		at := fmt.Sprintf("%s[%d]", path, i)
		if d.resolve(element, at) == nil {
			d.report(at, element.GetToken().Position, "empty element; remove it, or give it keys: %s", strings.Join(keys(v.Type().Elem()), ", "))
			continue
		}
		d.value(element, v.Index(i), "", at)
	}
}

func keys(t reflect.Type) []string {
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = t.Field(i).Tag.Get("yaml")
	}
	return names
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// variable is the environment variable of a path.
func variable(path string) string {
	return "SUBPROXY_" + strings.ToUpper(strings.NewReplacer(".", "_", "[", "_", "]", "").Replace(path))
}

func describe(node ast.Node) string {
	switch node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	default:
		return fmt.Sprintf("%q", node.GetToken().Value)
	}
}
