package service

import (
	"context"
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/cluster"
	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/election"
	"github.com/exesdb/subproxy/pkg/kv"
	"github.com/exesdb/subproxy/pkg/status"
)

// answerResetTerm answers where the store is configured here, once what this instance holds is registered
// with the new term.
func (c *controlService) answerResetTerm(ctx context.Context, r *request) {
	var body control.ResetTermRequest
	err := r.read(&body)
	if err == nil && (body.Store == "" || body.Term > cluster.MaxAnnouncedTerm) {
		err = fmt.Errorf(`%s needs a "store", and a "term" from 0 to %d`, control.ResetTerm, uint64(cluster.MaxAnnouncedTerm))
	}
	if err != nil {
		c.fail(r, control.CodeBadRequest, control.BadRequest, err.Error())
		return
	}
	if c.instance.Supervisor().Retired() {
		return
	}
	before, statuses, known, err := c.instance.Supervisor().ResetTerm(ctx, body.Store, body.Term)
	if !known {
		return
	}
	if err == nil {
		err = c.lowerMarkers(ctx, body.Store, body.Term)
	}
	if err != nil {
		c.fail(r, control.CodeUnavailable, control.TemporaryFailure, err.Error())
		return
	}
	a := control.ResetTermAnswer{
		Envelope: status.NewEnvelope(control.ResetTermAnswerType, time.Now()), Instance: c.describe(), Store: body.Store,
		Before: before, Term: body.Term, Affected: len(statuses),
	}
	for i := range statuses {
		if statuses[i].InPlace() {
			a.Verified++
		}
	}
	c.respond(r, a)
}

// lowerMarkers has the markers of the store's released registrations, and of a lease that was given back,
// say the new term. Of a lease that somebody holds the term stays: its holder proves with it that it leads.
func (c *controlService) lowerMarkers(ctx context.Context, store string, term uint64) error {
	if err := c.instance.Registry().LowerTerms(ctx, store, term); err != nil {
		return err
	}
	e, there, err := c.instance.Sessions().GetFromLeader(ctx, election.LeaderKey(store))
	if err != nil || !there || e.Operation != kv.Deleted || e.Term <= term {
		return err
	}
	result := c.instance.Sessions().Put(ctx, []kv.Write{{Key: e.Key, Revision: e.Revision, Term: term}})[0]
	if result.Err == kv.ErrConflict {
		return nil // somebody leads by now
	}
	return result.Err
}
