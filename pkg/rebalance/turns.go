package rebalance

import (
	"container/heap"
	"time"
)

// turnInterval is the least time between two looks at the turns that have come. Thousands that come one by
// one would each be a batch of its own, at several times the cost.
const turnInterval = 50 * time.Millisecond

// turn is when a subscription is looked at again. One whose time has changed since is passed over.
type turn struct {
	at  time.Time
	key string
}

// turns is a heap, the earliest first. It implements heap.Interface.
type turns []turn

func (h turns) Len() int           { return len(h) }
func (h turns) Less(a, b int) bool { return h[a].at.Before(h[b].at) }
func (h turns) Swap(a, b int)      { h[a], h[b] = h[b], h[a] }
func (h *turns) Push(x any)        { *h = append(*h, x.(turn)) }
func (h *turns) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = turn{}
	if *h = (*h)[:last]; last == 0 {
		*h = nil
	}
	return t
}

func (h *turns) add(at time.Time, key string) { heap.Push(h, turn{at, key}) }

// due takes the earliest out, if its time has come.
func (h *turns) due(now time.Time) (turn, bool) {
	if len(*h) == 0 || (*h)[0].at.After(now) {
		return turn{}, false
	}
	return heap.Pop(h).(turn), true
}
