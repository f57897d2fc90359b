package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/exesdb/subproxy/internal/testbed"
)

// instance is a child process that runs RunInstance.
type instance struct {
	*testbed.Child[instanceReport]
	registered chan registered // of every cause but the timer
	usages     chan usageSoFar
	failed     chan error // holds one
	began      time.Time
}

var errInstance = errors.New("the instance ended")

// startInstance starts the child, and does not wait for it.
func startInstance(c instanceConfig) (i *instance, err error) {
	i = &instance{registered: make(chan registered, 1<<16), usages: make(chan usageSoFar, 1), failed: make(chan error, 1), began: time.Now()}
	i.Child, err = testbed.StartChild("", InstanceCommand, c, os.Stderr, i.heard)
	return i, err
}

func (i *instance) heard(r instanceReport) {
	switch {
	case r.Registered != nil:
		i.registered <- *r.Registered
	case r.Usage != nil:
		i.usages <- *r.Usage
	case r.Error != "":
		i.failed <- fmt.Errorf("%w: %s", errInstance, r.Error)
	}
}

// verified returns when n registrations were verified for the cause.
func (i *instance) verified(ctx context.Context, cause func(registered) bool, n int) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	var last time.Time
	for n > 0 {
		select {
		case r := <-i.registered:
			if cause(r) {
				n -= r.N
				last = r.At
			}
		case err := <-i.failed:
			return last, err
		case <-i.Gone():
			return last, errInstance
		case <-ctx.Done():
			return last, fmt.Errorf("%d registrations are still missing: %w", n, ctx.Err())
		}
	}
	return last, nil
}

func (i *instance) usage(ctx context.Context) (u usageSoFar, err error) {
	if err := i.Tell("usage"); err != nil {
		return u, fmt.Errorf("%w: %w", errInstance, err)
	}
	select {
	case u = <-i.usages:
		return u, nil
	case <-i.Gone():
		return u, errInstance
	case <-ctx.Done():
		return u, ctx.Err()
	}
}

// stop lets it release what it holds, and returns when it is gone.
func (i *instance) stop() {
	i.Leave()
	late := time.NewTimer(time.Minute)
	defer late.Stop()
	select {
	case <-i.Gone():
	case <-late.C:
		_ = i.Kill()
	}
}
