package emitter

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/exesdb/subproxy/pkg/feed"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/link"
)

// checkpointBucket is the bucket of checkpoints; *kv.Bucket is one.
type checkpointBucket interface {
	Put(ctx context.Context, writes []kv.Write) []kv.Result
	GetLast(ctx context.Context, keys []string, found func(kv.Entry)) error
	GetFromLeader(ctx context.Context, key string) (kv.Entry, bool, error)
	Keys(ctx context.Context, store string) (map[string]bool, error)
	Newest(ctx context.Context, store string) (kv.Entry, bool, error)
}

// savedPlaces reads and writes a store's checkpoints in their bucket. It decides nothing and is safe for
// concurrent use.
type savedPlaces struct {
	store  string
	bucket checkpointBucket
	ensure func(context.Context) (created bool, err error) // opens the bucket again where it is gone
	link   *link.Link                                      // to the bucket; nil: there is none
	log    *slog.Logger
}

// put writes, and looks at what is there where a write was refused. It reports whether the bucket was gone
// and is made anew.
func (p *savedPlaces) put(ctx context.Context, writes []kv.Write) (_ []written, anew bool) {
	results := make([]written, len(writes))
	gone := false
	for i, r := range p.bucket.Put(ctx, writes) {
		results[i] = written{revision: r.Revision, err: r.Err}
		gone = gone || errors.Is(r.Err, kv.ErrNoStream)
		if !errors.Is(r.Err, kv.ErrConflict) {
			continue
		}
		var f found
		e, ok, err := p.bucket.GetFromLeader(ctx, writes[i].Key)
		f.err = err
		if ok {
			f.at = e.Revision
			f.ok = e.Operation == kv.Put && json.Unmarshal(e.Data, &f.by) == nil
		}
		results[i].found = &f
	}
	if gone {
		var err error
		if anew, err = p.ensure(ctx); err != nil {
			p.log.Warn("the bucket of checkpoints is away", "error", err)
		}
	}
	return results, anew
}

// drop deletes a checkpoint that another has taken the place of.
func (p *savedPlaces) drop(was former) {
	ctx, cancel := context.WithTimeout(context.Background(), checkpointIO)
	defer cancel()
	r := p.bucket.Put(ctx, []kv.Write{{Key: was.key, Revision: was.revision}})[0]
	if r.Err != nil && !errors.Is(r.Err, kv.ErrConflict) {
		p.log.Warn("a checkpoint that is no longer needed could not be deleted; subproxy checkpoints drop does", "key", was.key, "error", r.Err)
	}
}

// loaded is what the bucket has for a subscription.
type loaded struct {
	sub      *sub
	found    bool
	revision uint64
	point    Checkpoint
	odd      error           // the record can't be read
	answered bool            // its record was found, or the bucket's leader has none
	compared feed.Comparison // of its witness, where its epoch is another
	former   former
	other    other
}

// fewKeys is how many checkpoints are looked for one by one. For more, and where the bucket is further away
// than farBucket, its leader is asked which there are: that takes one round trip in place of four.
const (
	fewKeys   = 16
	farBucket = 20 * time.Millisecond
)

// present is what checkpoints are held against: the history when they were read.
type present struct {
	epoch  string
	former map[string]feed.Comparison // not written to
	reader reader
}

// load reads checkpoints until all are read or ctx ends, and hands over each page that is complete.
func (p *savedPlaces) load(ctx context.Context, got []loaded, in present, complete func([]loaded)) {
	for !p.loadAll(ctx, got, in, complete) {
		select {
		case <-time.After(loadAgain):
		case <-ctx.Done():
			return
		}
	}
}

// loadAgain is how soon a failed read of checkpoints is tried again.
const loadAgain = 250 * time.Millisecond

// loadAll reads a page at a time, hands over each that is complete, and reports whether all are. What was
// answered is not asked for again.
func (p *savedPlaces) loadAll(ctx context.Context, got []loaded, in present, complete func([]loaded)) (all bool) {
	there, err := p.absent(ctx, got)
	if err != nil {
		p.log.Warn("checkpoints can't be read yet; nothing is sent to their subscriptions", "subscriptions", len(got), "error", err)
		return false
	}
	all = true
	for page := range slices.Chunk(got, kv.MaxGetLast) {
		if page[0].sub == nil {
			continue // handed over before
		}
		err := p.read(ctx, page)
		if err == nil {
			err = p.inherit(ctx, there, page)
		}
		if err == nil {
			err = compareCheckpoints(ctx, in, page)
		}
		if err != nil {
			p.log.Warn("checkpoints can't be read yet; nothing is sent to their subscriptions", "subscriptions", len(page), "error", err)
			all = false
			continue
		}
		done := slices.Clone(page)
		page[0].sub = nil
		complete(done)
	}
	return all
}

// absent finds out in one request which of many have no checkpoint, and returns the keys of those that there
// are; nil: nobody was asked. A replica can't tell: it may be behind.
func (p *savedPlaces) absent(ctx context.Context, got []loaded) (there map[string]bool, err error) {
	open := 0
	for i := range got {
		if !got[i].answered {
			open++
		}
	}
	if open <= fewKeys && (p.link == nil || p.link.Least() < farBucket) {
		return nil, nil
	}
	if there, err = p.bucket.Keys(ctx, p.store); err != nil {
		return nil, err
	}
	for i := range got {
		if s := got[i].sub; s != nil && !there[s.key] {
			got[i].answered = true
		}
	}
	return there, nil
}

// read asks any replica, and the leader about those that it does not show.
func (p *savedPlaces) read(ctx context.Context, got []loaded) error {
	keys, at := make([]string, 0, len(got)), make(map[string]int, len(got))
	for i := range got {
		if key := got[i].sub.key; !got[i].answered {
			keys, at[key] = append(keys, key), i
		}
	}
	if len(keys) == 0 {
		return nil
	}
	if err := p.bucket.GetLast(ctx, keys, func(e kv.Entry) { got[at[e.Key]].read(&e) }); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fewKeys)
	for i := range got {
		if got[i].answered {
			continue
		}
		g.Go(func() error {
			e, ok, err := p.bucket.GetFromLeader(ctx, got[i].sub.key)
			if ok {
				got[i].read(&e)
			}
			got[i].answered = err == nil
			return err
		})
	}
	return g.Wait()
}

// compareCheckpoints finds out what checkpoints of other epochs have in common with the stream. Those that
// were written together have one witness.
func compareCheckpoints(ctx context.Context, in present, got []loaded) error {
	byWitness := map[string][]*loaded{}
	for i := range got {
		c := &got[i]
		compared, ok := in.former[c.point.Epoch]
		switch {
		case !c.found || c.point.Epoch == "" || c.point.Epoch == in.epoch:
		case ok:
			c.compared = compared
		case c.point.Witness != "":
			byWitness[c.point.Witness] = append(byWitness[c.point.Witness], c)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fewKeys)
	for witness, all := range byWitness {
		g.Go(func() error {
			compared, err := in.reader.Compare(ctx, parseWitness(witness))
			for _, c := range all {
				c.compared = compared
			}
			return err
		})
	}
	return g.Wait()
}

func (c *loaded) read(e *kv.Entry) {
	c.revision = e.Revision
	if e.Operation != kv.Put {
		return
	}
	if c.odd = json.Unmarshal(e.Data, &c.point); c.odd == nil {
		c.found, c.answered = true, true
	}
}

// newest is the checkpoint of the store that was written last; the zero value where there is none.
func (p *savedPlaces) newest(ctx context.Context) (newest Checkpoint, err error) {
	e, ok, err := p.bucket.Newest(ctx, p.store)
	if errors.Is(err, kv.ErrNoStream) || err == nil && !ok {
		return newest, nil
	}
	if err == nil && e.Operation != kv.Put {
		e, err = p.newestOfSome(ctx)
	}
	if err == nil && json.Unmarshal(e.Data, &newest) != nil {
		newest = Checkpoint{} // by hand it may be anything
	}
	return newest, err
}

// newestOfSome is for when the last thing written is the marker of a deletion.
func (p *savedPlaces) newestOfSome(ctx context.Context) (newest kv.Entry, err error) {
	there, err := p.bucket.Keys(ctx, p.store)
	if err != nil {
		return newest, err
	}
	keys := make([]string, 0, kv.MaxGetLast)
	for key := range there {
		if keys = append(keys, key); len(keys) == kv.MaxGetLast {
			break
		}
	}
	if len(keys) == 0 {
		return newest, nil
	}
	newest.Data = []byte("{}")
	err = p.bucket.GetLast(ctx, keys, func(e kv.Entry) {
		if e.Operation == kv.Put && e.Revision > newest.Revision {
			newest = e
		}
	})
	return newest, err
}
