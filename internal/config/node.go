package config

import (
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// entry is what a map has for one key, and how many aliases lead to it from there.
type entry struct {
	at      place // of the value, or of the key where there is nothing behind it
	value   ast.Node
	inAlias int
}

// mapReader gathers the entries of one map from its own keys and from the maps it merges.
type mapReader struct {
	*decoder
	fields []field
	path   string
	here   int // aliases that lead to the map itself
	all    map[string]entry
}

// entries are a map's. Unknown and duplicate keys are reported.
func (d *decoder) entries(fields []field, n ast.Node, path string) map[string]entry {
	r := mapReader{decoder: d, fields: fields, path: path, here: d.inAlias, all: map[string]entry{}}
	switch n := n.(type) {
	case nil, *ast.NullNode: // as if left out: a map all of whose keys are commented out
	case *ast.MappingNode:
		r.collect(n.Values)
	case *ast.MappingValueNode:
		r.collect([]*ast.MappingValueNode{n})
	default:
		d.report(d.placeOf(n), path, "a map is wanted (%s), not %s", shortList(names(fields)), describe(n))
	}
	return r.all
}

// collect takes a map's own keys first, then those of the maps it merges, which don't override what is there already.
func (r *mapReader) collect(values []*ast.MappingValueNode) {
	own := map[string]place{}
	var merged []ast.Node
	for _, kv := range values {
		if !r.afford(kv, r.path) {
			return
		}
		if _, merge := kv.Key.(*ast.MergeKeyNode); merge {
			merged = append(merged, kv.Value)
			continue
		}
		at := r.placeOf(kv.Key)
		key, ok := keyText(kv.Key)
		if !ok {
			r.report(at, r.path, "a key must be plain text, one of %s", shortList(names(r.fields)))
			continue
		}
		if first, twice := own[key]; twice {
			r.report(at, child(r.path, printable(key)), "duplicate key %s; the first is %s; keep one", quote(key), first)
			continue
		}
		own[key] = at
		r.known(key, at)
		if _, closer := r.all[key]; !closer {
			if null, ok := kv.Value.(*ast.NullNode); !ok || null.Token.Type != token.ImplicitNullType {
				at = r.placeOf(kv.Value)
			}
			r.all[key] = entry{at: at, value: kv.Value, inAlias: r.inAlias - r.here}
		}
	}
	for _, n := range merged {
		r.merge(n, true)
	}
}

func (r *mapReader) known(key string, at place) {
	if slices.ContainsFunc(r.fields, func(f field) bool { return f.name == key }) {
		return
	}
	known := names(r.fields)
	hint := suggest(key, known)
	if hint == "" {
		hint = "; known here: " + strings.Join(known, ", ")
	}
	r.report(at, child(r.path, printable(key)), "unknown key %s%s", quote(key), hint)
}

func (r *mapReader) merge(n ast.Node, mayBeList bool) {
	at := r.placeOf(n)
	n, leave := r.enter(n, r.path)
	defer leave()
	switch n := n.(type) {
	case nil:
		return // reported by enter
	case *ast.MappingNode:
		r.collect(n.Values)
		return
	case *ast.MappingValueNode:
		r.collect([]*ast.MappingValueNode{n})
		return
	case *ast.SequenceNode:
		if mayBeList {
			for _, e := range n.Values {
				r.merge(e, false)
			}
			return
		}
	}
	r.report(at, r.path, "<< merges a map or a list of maps, not %s; write it like <<: *name", describe(n))
}

// keyText is a key as it is written, whatever type YAML gives it.
func keyText(key ast.Node) (string, bool) {
	for {
		switch k := key.(type) {
		case *ast.MappingKeyNode:
			key = k.Value
		case *ast.AnchorNode:
			key = k.Value
		case *ast.StringNode:
			return k.Value, true
		case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode, *ast.InfinityNode, *ast.NanNode:
			return k.GetToken().Value, true
		default:
			return "", false
		}
	}
}

// printable is a key as a part of a path.
func printable(key string) string {
	for _, r := range key {
		if r <= ' ' || r > '~' {
			return quote(key)
		}
	}
	if key == "" || len(key) > 60 {
		return quote(key)
	}
	return key
}

func describe(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a map"
	case *ast.SequenceNode:
		return "a list"
	case *ast.BoolNode:
		return "a truth value"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.NullNode:
		return "nothing"
	default:
		return "text"
	}
}

// shortList keeps an enumeration in a message short.
func shortList(all []string) string {
	const most = 12
	if len(all) > most {
		return strings.Join(all[:most], ", ") + " and " + strconv.Itoa(len(all)-most) + " more"
	}
	return strings.Join(all, ", ")
}

// placeOf is where a node begins. The parser's token of a block map is its first colon.
func (d *decoder) placeOf(n ast.Node) place {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return d.placeOf(m.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return d.placeOf(m.Key)
	}
	if tk := n.GetToken(); tk != nil && tk.Position != nil {
		return d.placeAt(tk.Position)
	}
	return place{line: 1, column: 1}
}
