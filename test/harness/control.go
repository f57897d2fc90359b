//go:build unix

package harness

import (
	"errors"
	"time"

	"github.com/nats-io/nats.go"
)

// collect sends a control request and returns the answers until enough says so; the error is why there are
// not enough: the first does not come within that time, one of the others not within a fifth of it, or
// nobody listens.
func (w *World) collect(verb, body string, within time.Duration, enough func([]Answer) bool) (answers []Answer, err error) {
	w.Helper()
	sub, err := w.NC.SubscribeSync(w.NC.NewInbox())
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := w.NC.PublishRequest("exesdb.proxy.control."+verb, sub.Subject, []byte(body)); err != nil {
		return nil, err
	}
	for !enough(answers) {
		if len(answers) == 1 {
			within /= 5
		}
		m, err := sub.NextMsg(within)
		if err != nil {
			return answers, err
		}
		if m.Header.Get("Status") == "503" {
			return answers, nats.ErrNoResponders
		}
		a := Answer{}
		if a.Code = m.Header.Get("Nats-Service-Error-Code"); a.Code != "" {
			a.Refusal = m.Header.Get("Nats-Service-Error")
			if detail := Decode[map[string]string](w, m.Data); detail["error"] == "" {
				w.Errorf("control %s %s: refusal without an error: %s", verb, body, m.Data)
			}
		} else {
			a = Decode[Answer](w, m.Data)
		}
		answers = append(answers, a)
	}
	return answers, nil
}

// Ask sends a control request and returns the answers that come until enough says so.
func (w *World) Ask(verb, body string, enough func([]Answer) bool) []Answer {
	w.Helper()
	within := Patience
	if verb == "status" {
		within /= 8 // then it is asked again: an instance may have been about to reconnect
	}
	for began := time.Now(); ; {
		answers, err := w.collect(verb, body, within, enough)
		if err == nil {
			return answers
		}
		if !errors.Is(err, nats.ErrTimeout) || verb != "status" || time.Since(began) > Patience {
			w.Fatalf("control %s %s: %v after %d answers", verb, body, err, len(answers))
		}
	}
}

// Answers are everybody's to a request for statuses, as far as they come soon.
func (w *World) Answers() (all []Answer) {
	w.Helper()
	answers, _ := w.collect("status", "", 500*time.Millisecond, func([]Answer) bool { return false })
	for _, a := range answers {
		if a.Code == "" && a.Instance.ID != "" {
			all = append(all, a)
		}
	}
	return all
}

// StatusesOf are those that an instance answers; false where it does not answer completely.
func (w *World) StatusesOf(id string) (instance Responder, statuses []Status, ok bool) {
	w.Helper()
	answers, err := w.collect("status", "", 2*time.Second, CompletedBy(id))
	for _, a := range answers {
		if a.Instance.ID == id {
			instance, statuses = a.Instance, append(statuses, a.Proxies...)
		}
	}
	return instance, statuses, err == nil
}

// AskOne is Ask for a single answer.
func (w *World) AskOne(verb, body string) Answer {
	w.Helper()
	return w.Ask(verb, body, func(a []Answer) bool { return len(a) == 1 })[0]
}

// Statuses are those of a store's subscriptions, as one instance answers.
func (w *World) Statuses(id string) (all []Status) {
	w.Helper()
	for _, part := range w.Ask("status", `{"store":"`+id+`"}`, func(a []Answer) bool { return len(a) > 0 && len(a) == a[0].Parts }) {
		all = append(all, part.Proxies...)
	}
	return all
}

// CompletedBy waits for all parts of an instance's answer.
func CompletedBy(id string) func([]Answer) bool {
	return func(answers []Answer) bool {
		parts := 0
		for _, a := range answers {
			if a.Instance.ID == id {
				if parts++; parts == a.Parts {
					return true
				}
			}
		}
		return false
	}
}
