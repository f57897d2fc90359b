package command

import "testing"

func TestVersionIsTheLinkersOrASemanticOne(t *testing.T) {
	defer func(old string) { version = old }(version)
	version = "1.2.3"
	if v := Version(); v != "1.2.3" {
		t.Errorf("set by the linker: %q", v)
	}
	version = ""
	if v := Version(); v == "" {
		t.Error("unset: none")
	}
}
