package instance

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

func TestWhatInstancesSendEachOtherAndNobodyCanReadIsLoggedOnceAMinute(t *testing.T) {
	var said bytes.Buffer
	s := &sessions{}
	s.init(&Instance{log: slog.New(slog.NewTextHandler(&said, nil))})
	for range 3 {
		s.handOver(&nats.Msg{Subject: "h", Data: []byte("?")})
	}
	if n := strings.Count(said.String(), "can't be read"); n != 1 {
		t.Errorf("said %d times:\n%s", n, &said)
	}
}
