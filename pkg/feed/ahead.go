package feed

import "context"

const (
	// maxAhead is how many pages are asked for at once at the most, and maxAheadBytes about how much.
	maxAhead      = 32
	maxAheadBytes = 16 << 20
)

// AheadReader reads on from a sequence, as Reader.Read does, and asks for several pages at once where a round
// trip to the server takes long: each page would else cost one. It is for one goroutine at a time.
//
// A page that was asked for ahead begins where the one before is expected to end. One that begins later than
// that leaves a gap, which is read by itself; one that begins earlier shows some messages again. So what is
// shown has no hole that a page on its own would not have.
type AheadReader struct {
	reader *Reader
	pages  []*pageAhead // in order, each with a later start
	sparse float64      // sequences there are for each message, about, where it read last; at least 1
}

// pageAhead is a page that was asked for.
type pageAhead struct {
	from     uint64
	done     chan struct{} // closed when it is there
	messages []Message
	err      error
}

// AheadReader begins to read on. It is nil where the way to the server is so short that this is of no use.
func (r *Reader) AheadReader() *AheadReader {
	if !r.direct || r.api.link.Least() < farAway {
		return nil
	}
	return &AheadReader{reader: r, sparse: 1}
}

// Read is Reader.Read, from a sequence that is not below those it has returned. So many pages are asked for
// at once, this one included, as far as upTo. They end with ctx, which is therefore the same for all.
func (a *AheadReader) Read(ctx context.Context, from uint64, batch, maxBytes int, upTo uint64, pages int) ([]Message, error) {
	// What ends before from was of no use: the messages lie closer than it seemed.
	for len(a.pages) > 1 && a.pages[1].from <= from {
		a.pages = a.pages[1:]
	}
	if len(a.pages) > 0 && a.pages[0].from > from { // the page before it ended early
		return a.reader.Read(ctx, from, min(batch, int(a.pages[0].from-from)), maxBytes)
	}
	a.ask(ctx, from, batch, maxBytes, upTo, pages)
	p := a.pages[0]
	a.pages = a.pages[1:]
	<-p.done // it ends with ctx
	if p.err != nil {
		return nil, p.err
	}
	if p.messages[len(p.messages)-1].Sequence < from { // all of it was shown before
		return a.reader.Read(ctx, from, batch, maxBytes)
	}
	a.learn(p)
	return p.messages, nil
}

// learn takes how far a page went. That the next begins too early costs bytes, that it begins too late
// a round trip.
func (a *AheadReader) learn(p *pageAhead) {
	n := len(p.messages)
	a.sparse = max(1, 0.9*float64(p.messages[n-1].Sequence-p.from+1)/float64(n))
}

// span is how many sequences so many messages have among them, about.
func (a *AheadReader) span(messages int) uint64 { return uint64(float64(messages) * a.sparse) }

// ask asks for pages until so many are under way.
func (a *AheadReader) ask(ctx context.Context, from uint64, batch, maxBytes int, upTo uint64, pages int) {
	bytes := max(1, int(a.reader.api.size.bytes.Load()))
	batch = max(1, min(batch, maxBytes/bytes))
	pages = max(1, min(pages, maxAhead, maxAheadBytes/(batch*bytes)))
	if n := len(a.pages); n > 0 {
		from = a.pages[n-1].from + a.span(batch)
	}
	want := a.reader.api.size.of(batch, maxBytes)
	for len(a.pages) == 0 || len(a.pages) < pages && from <= upTo {
		// Granted here, in order: were a later page granted first, this one would wait for it.
		grant := a.reader.api.link.TryTake(ctx, want)
		if grant == nil && len(a.pages) > 0 {
			return
		}
		p := &pageAhead{from: from, done: make(chan struct{})}
		a.pages = append(a.pages, p)
		go func() {
			defer close(p.done)
			if grant == nil {
				p.messages, p.err = a.reader.Read(ctx, p.from, batch, maxBytes)
			} else {
				p.messages, p.err = a.reader.read(ctx, grant, p.from, batch)
			}
		}()
		from += a.span(batch)
	}
}
