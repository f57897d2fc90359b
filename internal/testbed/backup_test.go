package testbed_test

import (
	"testing"

	"github.com/exesdb/subproxy/internal/testbed"
)

func TestRestoredStreamHoldsWhatWasBackedUp(t *testing.T) {
	node := start(t)
	nc, js := connect(t, node.URL())
	createStream(t, js, "S", 1)
	publish(t, js, "S.a")
	publish(t, js, "S.b")
	backup, err := testbed.BackUp(within(t), nc, "S")
	if err != nil {
		t.Fatal(err)
	}
	publish(t, js, "S.c")
	if err := backup.Restore(within(t), nc); err == nil {
		t.Error("restored over a stream that is there")
	}
	if err := js.DeleteStream(within(t), "S"); err != nil {
		t.Fatal(err)
	}
	if err := backup.Restore(within(t), nc); err != nil {
		t.Fatal(err)
	}
	wantMessages(t, js, "S", 2)
	if _, err := testbed.BackUp(within(t), nc, "NONE"); err == nil {
		t.Error("backed up what is not there")
	}
}
