package service

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"github.com/exesdb/subproxy/pkg/control"
)

func TestDrainIsAnsweredByTheInstanceThatIsMeant(t *testing.T) {
	s := startService(t, "host a")
	m := control.NewClient(s.nc)
	var refused *control.RefusedError
	for instance, code := range map[string]string{"": control.CodeBadRequest} {
		if _, err := m.Drain(t.Context(), instance, false); !errors.As(err, &refused) || refused.Code != code {
			t.Errorf("%q: %v", instance, err)
		}
	}
	for _, undo := range []bool{false, true} {
		a, err := m.Drain(t.Context(), "host a", undo)
		if held, _ := s.session.Member(); err != nil || a.Draining == undo || held.Draining == undo || a.Instance.ID != s.owner.ID || a.Type != control.DrainAnswerType {
			t.Errorf("undo %t: %+v, %v", undo, a, err)
		}
	}
}

func TestWhatInstancesSendEachOtherAndNobodyCanReadIsLoggedOnceAMinute(t *testing.T) {
	var said bytes.Buffer
	s := &Service{log: slog.New(slog.NewTextHandler(&said, nil)), unreadable: rate.Sometimes{Interval: time.Minute}}
	for range 3 {
		s.handOver(&nats.Msg{Subject: "h", Data: []byte("?")})
	}
	if n := strings.Count(said.String(), "can't be read"); n != 1 {
		t.Errorf("said %d times:\n%s", n, &said)
	}
}
