package event

import "testing"

func TestSubjectThatNothingCanBePublishedToIsNotValid(t *testing.T) {
	for _, subject := range []string{"a", "a.b.c", "exesdb.proxy.deliver.x.1", "a*b", "ä.ö"} {
		if !ValidSubject(subject) {
			t.Errorf("%q is refused", subject)
		}
	}
	for _, subject := range []string{"", ".", "a.", ".a", "a..b", "*", "a.*", "a.>", ">", "a b", "a.\tb", "a\r\nb", "a.\x7f"} {
		if ValidSubject(subject) {
			t.Errorf("%q is taken", subject)
		}
	}
}
