package kv

import (
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// MissingSettingError is returned by Open for a bucket that exists and is not as subproxy needs it.
type MissingSettingError struct {
	Bucket  string
	Setting string // every setting that is wrong, as the stream configuration names it, with what it must be
	Mend    string // the one nats command that mends them all
	// Anew says that a setting can't be changed in a bucket that is there: Mend removes it with all it
	// holds, and it is made anew.
	Anew bool
}

func (e *MissingSettingError) Error() string {
	if e.Anew {
		return fmt.Sprintf("bucket %s can't be used as it is: %s; that can't be changed, so move it away or delete it, with what it holds, and start again, which makes it anew: %s",
			e.Bucket, e.Setting, e.Mend)
	}
	return fmt.Sprintf("bucket %s lacks %s; mend it with: %s", e.Bucket, e.Setting, e.Mend)
}

// What a bucket must have room for.
const (
	// largestRecord is what a record has in bytes at the most, its headers included: its key has 1,023, and
	// the names and the selector that it is made of stand in the value once more.
	largestRecord = 4 << 10
	// usualRecord is what a record takes in the store, generously.
	usualRecord = 1 << 10
	leastBytes  = 64 << 10
)

// wrong is a setting that a bucket must have otherwise.
type wrong struct {
	what  string // it must be, and what it is
	flags string // of nats stream edit; empty: it can't be edited
}

// wrongs are the settings of a bucket's stream that break a promise, given how many records it is to hold
// at least. What is left alone is the user's choice: storage, replicas, placement, compression, what else
// it listens to, limits with room.
func (b *Bucket) wrongs(cfg jetstream.StreamConfig, records int) (all []wrong) {
	add := func(is bool, flags, what string, args ...any) {
		if is {
			all = append(all, wrong{fmt.Sprintf(what, args...), flags})
		}
	}
	subject := b.prefix + ">"
	// What can't be mended in place.
	add(cfg.Sealed, "", "sealed false (nothing can be written)")
	add(cfg.Mirror != nil, "", "no mirror (nothing can be written to a copy of another stream)")
	add(cfg.AllowMsgCounter, "", "allow_msg_counter false (it takes numbers only)")
	add(cfg.Retention == jetstream.WorkQueuePolicy, "", "retention limits (a work queue forgets what was read)")
	// What is lost, or never there.
	add(cfg.Retention == jetstream.InterestPolicy, "--retention=limits", "retention limits (with interest, what nobody consumes is not kept)")
	add(cfg.Mirror == nil && !covers(cfg.Subjects, subject), fmt.Sprintf("--subjects='%s'", subject), "subjects %s (it has %s)", subject, strings.Join(cfg.Subjects, ", "))
	add(cfg.SubjectTransform != nil, "--no-transform", "no subject_transform (records would stand under other keys)")
	add(cfg.NoAck, "--ack", "no_ack false (nobody would know what was written)")
	add(cfg.MaxMsgsPerSubject != 1, "--max-msgs-per-subject=1", "max_msgs_per_subject 1 (history 1; it has %d)", cfg.MaxMsgsPerSubject)
	add(!cfg.AllowDirect, "--allow-direct", "allow_direct (direct get)")
	add(b.kind.markers && (!cfg.AllowMsgTTL || cfg.SubjectDeleteMarkerTTL <= 0), "--allow-msg-ttl --subject-del-markers-ttl=1h",
		"allow_msg_ttl and subject_delete_marker_ttl (per-message TTL markers)")
	if to := b.kind.republishTo; to != "" {
		p := cfg.RePublish
		is := p == nil || p.HeadersOnly || p.Destination != to+">" || p.Source != subject
		what := fmt.Sprintf("republish to %s> from %s, with data", to, subject)
		if p != nil {
			what += fmt.Sprintf(" (it has %s from %s, headers only: %t)", p.Destination, p.Source, p.HeadersOnly)
		}
		add(is, fmt.Sprintf("--republish-source='%s' --republish-destination='%s>'", subject, to), "%s", what)
	}
	add(cfg.MaxAge > 0, "--max-age=0s", "max_age 0 (no TTL of the bucket: records, and what remembers released ones, would expire; it has %s)", cfg.MaxAge.Round(time.Millisecond))
	limited := cfg.MaxMsgs > 0 || cfg.MaxBytes > 0
	add(cfg.DiscardNewPerSubject, "--no-discard-per-subject", "discard_new_per_subject false (no record could be written over)")
	add(limited && cfg.Discard != jetstream.DiscardNew, "--discard=new", "discard new where max_msgs or max_bytes is set (a full bucket would drop the oldest records)")
	add(cfg.MaxMsgSize > 0 && cfg.MaxMsgSize < largestRecord, "--max-msg-size=-1", "max_msg_size of %d or more, or none (it has %d; a record with long names does not fit)", largestRecord, cfg.MaxMsgSize)
	add(cfg.MaxMsgs > 0 && cfg.MaxMsgs < int64(records), "--max-msgs=-1", "max_msgs of %d or more, or none (it has %d; so many records are configured)", records, cfg.MaxMsgs)
	bytes := leastBytes + int64(records)*usualRecord
	add(cfg.MaxBytes > 0 && cfg.MaxBytes < bytes, fmt.Sprintf("--max-bytes=%d", 4*bytes), "max_bytes of %d or more, or none (it has %d; %d records don't fit)", bytes, cfg.MaxBytes, records)
	return all
}

// covers reports whether a stream with these subjects stores everything below one that ends in >.
func covers(subjects []string, below string) bool {
	for _, s := range subjects {
		if s == below || strings.HasSuffix(s, ">") && strings.HasPrefix(below, strings.TrimSuffix(s, ">")) {
			return true
		}
	}
	return false
}

// check is nil where the bucket's stream is as it must be, else a *MissingSettingError that has all that is
// not.
func (b *Bucket) check(cfg jetstream.StreamConfig, records int) error {
	all := b.wrongs(cfg, records)
	if len(all) == 0 {
		return nil
	}
	e := &MissingSettingError{Bucket: b.bucket, Mend: "nats stream edit " + b.Stream()}
	var what []string
	for _, w := range all {
		what = append(what, w.what)
		e.Mend += " " + w.flags
		e.Anew = e.Anew || w.flags == ""
	}
	e.Setting = strings.Join(what, "; ")
	if e.Anew {
		e.Mend = "nats stream rm " + b.Stream()
	}
	return e
}
