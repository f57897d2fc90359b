package main

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/exesdb/subproxy/pkg/emitter"
)

func TestPublishEncodesAttributes(t *testing.T) {
	url, _, js := startParked(t)
	stored := func(sequence uint64) *jetstream.RawStreamMsg {
		t.Helper()
		stream, err := js.Stream(t.Context(), emitter.StreamName("s"))
		if err != nil {
			t.Fatal(err)
		}
		m, err := stream.GetMsg(t.Context(), sequence)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if _, err := execute(t, "publish", "-s", url, "s", "o 1", "café", `{"area":12}`, "--id", `a"b`, "-H", "ce-tenant:50%", "-H", "ce-site:caf%C3%A9"); err != nil {
		t.Fatal(err)
	}
	h := stored(1).Header
	for name, want := range map[string]string{
		"ce-type": "caf%C3%A9", "ce-subject": "o%201", "ce-id": "a%22b", "ce-tenant": "50%25", "ce-site": "caf%C3%A9", "ce-datacontenttype": "application/json", "content-type": "application/json",
		"Nats-Msg-Id": `a"b`,
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if _, err := execute(t, "publish", "-s", url, "s", "o", "t", "{}", "-H", "Content-Type:text/plain"); err != nil {
		t.Fatal(err)
	}
	if h := stored(2).Header; h.Get("ce-datacontenttype") != "text/plain" || h.Get("Content-Type") != "text/plain" || h.Get("content-type") != "" {
		t.Errorf("with a content type: %v", h)
	}
	if _, err := execute(t, "publish", "-s", url, "s", "o", "t", "{}", "-H", "Content-Type:application/cloudevents+json"); err == nil {
		t.Error("structured mode is taken")
	}
	if _, err := execute(t, "publish", "-s", url, "s", "o", "t", "{}", "-H", "ce-tenant:%C0%A0"); err == nil {
		t.Error("an escape that is not UTF-8 is taken")
	}
}
