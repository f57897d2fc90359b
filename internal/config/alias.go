package config

import "github.com/goccy/go-yaml/ast"

// maxExpanded bounds the entries that aliases stand for: a few lines of aliases of aliases could stand for billions.
const maxExpanded = 1 << 20

// target is what an alias stands for. Within its own anchor it stands for nothing that ends.
type target struct {
	node   ast.Node
	cyclic bool
}

// bindAliases finds what each alias stands for: the last anchor of that name before it. An alias without one is absent.
func bindAliases(root ast.Node) map[*ast.AliasNode]target {
	b := &binder{anchors: map[string]*ast.AnchorNode{}, open: map[*ast.AnchorNode]bool{}, bound: map[*ast.AliasNode]target{}}
	b.walk(root)
	return b.bound
}

type binder struct {
	anchors map[string]*ast.AnchorNode
	open    map[*ast.AnchorNode]bool
	bound   map[*ast.AliasNode]target
}

func (b *binder) walk(n ast.Node) {
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, kv := range n.Values {
			b.walk(kv)
		}
	case *ast.MappingValueNode:
		b.walk(n.Key)
		b.walk(n.Value)
	case *ast.MappingKeyNode:
		b.walk(n.Value)
	case *ast.SequenceNode:
		for _, e := range n.Values {
			b.walk(e)
		}
	case *ast.TagNode:
		b.walk(n.Value)
	case *ast.AnchorNode:
		b.anchors[nameOf(n.Name)] = n
		b.open[n] = true
		b.walk(n.Value)
		delete(b.open, n)
	case *ast.AliasNode:
		if a, ok := b.anchors[nameOf(n.Value)]; ok {
			b.bound[n] = target{node: a.Value, cyclic: b.open[a]}
		}
	}
}

func nameOf(n ast.Node) string {
	if n == nil || n.GetToken() == nil {
		return ""
	}
	return n.GetToken().Value
}

// enter looks through anchors and aliases to the node itself; nil where there is none, which it has then reported unless
// there was none before. leave ends the stay in what an alias stands for.
func (d *decoder) enter(n ast.Node, path string) (node ast.Node, leave func()) {
	entered := 0
	leave = func() { d.inAlias -= entered }
	for {
		switch m := n.(type) {
		case *ast.AnchorNode:
			n = m.Value
		case *ast.AliasNode:
			to, bound := d.aliases[m]
			switch {
			case !bound:
				d.report(d.placeOf(m), path, "alias *%s has no anchor before it; write &%[1]s at what it stands for", printable(nameOf(m.Value)))
				return nil, leave
			case to.cyclic:
				d.report(d.placeOf(m), path, "alias *%s stands within its own anchor; write out what is meant", printable(nameOf(m.Value)))
				return nil, leave
			}
			n = to.node
			d.inAlias++
			entered++
		case *ast.TagNode:
			d.report(d.placeOf(m), path, "tag %s is not supported; leave it out", printable(m.Start.Value))
			return nil, leave
		default:
			return n, leave
		}
	}
}

// isEmpty reports whether a node is as good as left out.
func (d *decoder) isEmpty(n ast.Node) bool {
	for {
		switch m := n.(type) {
		case nil, *ast.NullNode:
			return true
		case *ast.AnchorNode:
			n = m.Value
		case *ast.AliasNode:
			to := d.aliases[m]
			if to.cyclic {
				return false
			}
			n = to.node
		default:
			return false
		}
	}
}

// afford counts what aliases expand to, and reports when it is too much, once.
func (d *decoder) afford(n ast.Node, path string) bool {
	if d.inAlias == 0 {
		return true
	}
	d.expanded++
	if d.expanded == maxExpanded {
		d.report(d.placeOf(n), path, "aliases stand for more than %d entries; write out what is meant", maxExpanded)
	}
	return d.expanded < maxExpanded
}
