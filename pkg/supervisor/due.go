package supervisor

import (
	"container/heap"
	"time"
)

// dueHeap orders items by when they are next due. It is lazy: an attempt that succeeds moves its proxy's
// next time further away, which the heap only learns when the old time comes. So a round of 100,000
// successes costs it nothing.
type dueHeap []*managed

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(a, b int) bool { return h[a].dueAt.Before(h[b].dueAt) }
func (h dueHeap) Swap(a, b int) {
	h[a], h[b] = h[b], h[a]
	h[a].slot, h[b].slot = int32(a+1), int32(b+1)
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	it := x.(*managed)
	*h = append(*h, it)
	it.slot = int32(len(*h))
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	it := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	it.slot = 0
	return it
}

// schedule makes sure that the item is looked at no later than its proxy's next time.
func (h *dueHeap) schedule(it *managed) {
	switch next := it.proxy.Next; {
	case next.IsZero() || it.proxy.Stopped: // it does nothing any more
	case it.slot == 0:
		it.dueAt = next
		heap.Push(h, it)
	case next.Before(it.dueAt):
		it.dueAt = next
		heap.Fix(h, int(it.slot-1))
	}
}

func (h *dueHeap) remove(it *managed) {
	if it.slot > 0 {
		heap.Remove(h, int(it.slot-1))
	}
}

// pop returns the next item that is due, or nil. One that moved further away meanwhile is put back where it
// belongs.
func (h *dueHeap) pop(now time.Time) *managed {
	for len(*h) > 0 && !(*h)[0].dueAt.After(now) {
		it := heap.Pop(h).(*managed)
		if it.proxy.Next.After(now) {
			h.schedule(it)
			continue
		}
		return it
	}
	return nil
}

// next is when the heap should be looked at again; zero: never.
func (h dueHeap) next() time.Time {
	if len(h) == 0 {
		return time.Time{}
	}
	return h[0].dueAt
}
