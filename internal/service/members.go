package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/exesdb/subproxy/pkg/control"
	"github.com/exesdb/subproxy/pkg/membership"
	"github.com/exesdb/subproxy/pkg/status"
)

// answerDrain answers where this instance is meant, once the others can see it. What it holds moves after
// that.
func (c *controlService) answerDrain(ctx context.Context, r *request) {
	var body control.DrainRequest
	err := r.read(&body)
	if err == nil && body.Instance == "" {
		err = errors.New(`drain needs an "instance"`)
	}
	if err != nil {
		c.fail(r, control.CodeBadRequest, control.BadRequest, err.Error())
		return
	}
	if body.Instance != c.owner.Name || c.instance.Supervisor().Retired() {
		return
	}
	session := c.instance.Session()
	if session == nil {
		c.fail(r, control.CodeUnavailable, control.TemporaryFailure, "this instance shares nothing with others")
		return
	}
	switch err := session.SetDraining(ctx, !body.Undo); {
	case errors.Is(err, membership.ErrSuperseded): // the run that has the name answers
	case err != nil:
		c.fail(r, control.CodeUnavailable, control.TemporaryFailure, fmt.Sprint(err))
	default:
		c.respond(r, control.DrainAnswer{Envelope: status.NewEnvelope(control.DrainAnswerType, time.Now()), Instance: c.describe(), Draining: !body.Undo})
	}
}
