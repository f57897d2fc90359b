package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// entry is what a map has for one key.
type entry struct {
	at    place // of the value, or of the key where there is nothing behind it
	value ast.Node
}

// entries are a map's. Unknown and duplicate keys are reported.
func (d *decoder) entries(fields []field, n ast.Node, path string) map[string]entry {
	switch n := n.(type) {
	case nil, *ast.NullNode: // as if left out: a map all of whose keys are commented out
	case *ast.MappingNode:
		return d.collect(fields, n.Values, path)
	case *ast.MappingValueNode:
		return d.collect(fields, []*ast.MappingValueNode{n}, path)
	default:
		d.refuse(d.placeOf(n), path, fmt.Sprintf("a map is wanted (%s)", shortList(names(fields))), n)
	}
	return nil
}

func (d *decoder) collect(fields []field, values []*ast.MappingValueNode, path string) map[string]entry {
	all, seen := map[string]entry{}, map[string]place{}
	for _, kv := range values {
		at := d.placeOf(kv.Key)
		key, ok := keyText(kv.Key)
		switch {
		case isReference(kv.Key):
			d.found.report(at, path, noReferences)
			continue
		case !ok:
			d.found.report(at, path, "a key must be plain text, one of %s", shortList(names(fields)))
			continue
		}
		if first, twice := seen[key]; twice {
			d.found.report(at, child(path, printable(key)), "duplicate key %s; the first is %s; keep one", quote(key), first)
			continue
		}
		seen[key] = at
		d.checkKey(fields, key, at, path)
		if null, ok := kv.Value.(*ast.NullNode); !ok || null.Token.Type != token.ImplicitNullType {
			at = d.placeOf(kv.Value)
		}
		all[key] = entry{at: at, value: kv.Value}
	}
	return all
}

const noReferences = "anchors, aliases and merge keys (&name, *name, <<) are not supported; write out what is meant " +
	"(a store's defaults hold what its subscriptions share)"

// isReference reports whether a node is one that YAML names or fetches by name.
func isReference(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.MappingKeyNode:
		return isReference(n.Value)
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		return true
	}
	return false
}

// refuse reports a node of another kind than is wanted.
func (d *decoder) refuse(at place, path, wanted string, n ast.Node) {
	tag, tagged := n.(*ast.TagNode)
	switch {
	case isReference(n):
		d.found.report(at, path, noReferences)
	case tagged:
		d.found.report(at, path, "tag %s is not supported; leave it out", printable(tag.Start.Value))
	default:
		d.found.report(at, path, "%s, not %s", wanted, describe(n))
	}
}

// checkKey reports a key that is none of the fields'.
func (d *decoder) checkKey(fields []field, key string, at place, path string) {
	if slices.ContainsFunc(fields, func(f field) bool { return f.name == key }) {
		return
	}
	known := names(fields)
	hint := suggest(key, known)
	if hint == "" {
		hint = "; known here: " + strings.Join(known, ", ")
	}
	d.found.report(at, child(path, printable(key)), "unknown key %s%s", quote(key), hint)
}

// keyText is a key as it is written, whatever type YAML gives it.
func keyText(key ast.Node) (string, bool) {
	for {
		switch k := key.(type) {
		case *ast.MappingKeyNode:
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
