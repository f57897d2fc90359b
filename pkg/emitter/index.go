package emitter

import (
	"slices"

	"github.com/exesdb/subproxy/pkg/event"
	"github.com/exesdb/subproxy/pkg/subscription"
)

// group is the subscriptions with one selector, which is looked at once for all of them.
type group struct {
	selector selector
	matcher  *subscription.Matcher
	subs     []*sub
}

func (g *group) matches(e *entry) bool { return g.matcher.Match(&e.event) }

type selector struct {
	typ  subscription.Type
	text string
}

// index finds the subscriptions that an event is for: by stream id and by type with one look-up each, by
// pattern and by payload with one look at each different selector.
type index struct {
	groups  map[selector]*group
	looking []*group // by pattern and by payload
}

func newIndex() index { return index{groups: map[selector]*group{}} }

// add puts the subscription in. The error is that its selector can't be compiled.
func (x *index) add(s *sub, subscribed subscription.Subscription) error {
	sel := selector{subscribed.Type, subscribed.Selector}
	g := x.groups[sel]
	if g == nil {
		m, err := subscribed.Compile()
		if err != nil {
			return err
		}
		g = &group{selector: sel, matcher: m}
		x.groups[sel] = g
		if sel.looks() {
			x.looking = append(x.looking, g)
		}
	}
	s.group, s.place = g, len(g.subs)
	g.subs = append(g.subs, s)
	return nil
}

func (sel selector) looks() bool {
	return sel.typ == subscription.ByEventPattern || sel.typ == subscription.ByEventPayload
}

func (x *index) remove(s *sub) {
	g := s.group
	if g == nil {
		return
	}
	last := g.subs[len(g.subs)-1]
	g.subs[s.place], last.place = last, s.place
	g.subs[len(g.subs)-1] = nil
	g.subs = g.subs[:len(g.subs)-1]
	s.group = nil
	if len(g.subs) == 0 {
		delete(x.groups, g.selector)
		x.looking = slices.DeleteFunc(x.looking, func(other *group) bool { return other == g })
	}
}

// matching appends the groups that want the event.
func (x *index) matching(e *event.Event, groups []*group) []*group {
	for i, sel := range [...]selector{
		{subscription.ByStream, subscription.AllStreams}, {subscription.ByEventType, e.Type}, {subscription.ByStream, e.Stream},
	} {
		if i == 2 && e.Stream == subscription.AllStreams {
			break // a stream id that is spelt like the word for all of them
		}
		if g := x.groups[sel]; g != nil {
			groups = append(groups, g)
		}
	}
	for _, g := range x.looking {
		if g.matcher.Match(e) {
			groups = append(groups, g)
		}
	}
	return groups
}
