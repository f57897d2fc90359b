package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jedib0t/go-pretty/v6/text"
	"go.uber.org/goleak"

	"github.com/exesdb/subproxy/internal/command"
)

func TestMain(m *testing.M) {
	text.DisableColors()
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*Server).internalSendLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.init.0.func1"))
}

// execute runs a command line in this process. Nothing of the environment decides where it connects.
func execute(t *testing.T, args ...string) (output string, err error) {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("SUBPROXY_NATS_URL", "") // puts back what was there at the end
	os.Unsetenv("SUBPROXY_NATS_URL")
	var out bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	err = root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestMistakesInTheCommandLineAreUsageErrors(t *testing.T) {
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"fly"}, `unknown command "fly"; see subproxy --help`},
		{[]string{"--fly"}, "unknown flag: --fly; see subproxy --help"},
		{[]string{"run", "--fly"}, "see subproxy run --help"},
		{[]string{"run"}, "--config FILE"},
		{[]string{"run", "x"}, "subproxy run takes no arguments, not 1"},
		{[]string{"run", "--embedded-port", "x"}, "--embedded-port"},
		{[]string{"check"}, "--config FILE to check, or --defaults"},
		{[]string{"check", "x"}, "subproxy check takes no arguments"},
		{[]string{"check", "--defaults", "--config", "x"}, "exclude each other"},
		{[]string{"check", "--config"}, "flag needs an argument"},
		{[]string{"list", "a", "b"}, "subproxy list takes at most a STORE, not 2"},
		{[]string{"status", "a", "b", "c"}, "STORE and NAME, both optional, not 3"},
		{[]string{"restart", "a"}, "subproxy restart takes a STORE and a NAME, not 1"},
		{[]string{"reregister", "a", "b", "c"}, "subproxy reregister takes"},
		{[]string{"version", "x"}, "no arguments"},
	} {
		out, err := execute(t, c.args...)
		var use *command.UsageError
		if !errors.As(err, &use) || !strings.Contains(err.Error(), c.says) || out != "" {
			t.Errorf("subproxy %s: got %v; want a usage error that says %s\n%s", strings.Join(c.args, " "), err, c.says, out)
		}
	}
}

func TestWhatDoesNotWorkIsNoUsageError(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent.yaml")
	for _, args := range [][]string{
		{"check", "--config", absent}, {"run", "--config", absent}, {"list", "--nats", "nats://127.0.0.1:1"}, {"status", "--context", "absent"},
	} {
		_, err := execute(t, args...)
		var use *command.UsageError
		if err == nil || errors.As(err, &use) {
			t.Errorf("subproxy %s: got %v", strings.Join(args, " "), err)
		}
	}
}

func TestExitStatusTellsWrongUseFromFailure(t *testing.T) {
	old := os.Args
	defer func() { os.Args = old }()
	stderr, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	stdout, errout := os.Stdout, os.Stderr
	os.Stdout, os.Stderr = stderr, stderr
	defer func() { os.Stdout, os.Stderr = stdout, errout }()
	for line, want := range map[string]int{
		"version": command.Done, "fly": command.WrongUse, "check": command.WrongUse, "check --config /dev/null": command.Failed, "check --defaults": command.Done,
	} {
		os.Args = append([]string{"subproxy"}, strings.Fields(line)...)
		if got := command.Run(newRoot()); got != want {
			t.Errorf("subproxy %s: exit status %d, want %d", line, got, want)
		}
	}
}

func TestVersionIsPrinted(t *testing.T) {
	for _, arg := range []string{"version", "--version"} {
		if out, err := execute(t, arg); err != nil || out != "subproxy "+command.Version()+"\n" {
			t.Errorf("%s: %q, %v", arg, out, err)
		}
	}
}

func TestHelpListsWhatAnOperatorDoes(t *testing.T) {
	for _, cmd := range newRoot().Commands() {
		if cmd.Hidden || cmd.Name() == "bench" || cmd.Name() == "demo" {
			t.Errorf("%s: it is no operator's", cmd.Name())
		}
	}
}

func TestEveryCommandIsDescribed(t *testing.T) {
	for _, cmd := range newRoot().Commands() {
		if cmd.Hidden || !cmd.IsAvailableCommand() {
			continue
		}
		if out, err := execute(t, cmd.Name(), "--help"); err != nil || !strings.Contains(out, "subproxy "+cmd.Name()) || cmd.Short == "" {
			t.Errorf("%s: %v\n%s", cmd.Name(), err, out)
		}
	}
}

func writeConfig(t *testing.T, content string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "subproxy.yaml")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestPrintedDefaultsPassTheCheck(t *testing.T) {
	defaults, err := execute(t, "check", "--defaults")
	if err != nil {
		t.Fatal(err)
	}
	file := writeConfig(t, defaults)
	out, err := execute(t, "check", "--config", file)
	if err != nil || !strings.HasPrefix(out, file+": good; stores 1, subscriptions ") {
		t.Errorf("got %v\n%s", err, out)
	}
}

func TestCheckListsEveryMistake(t *testing.T) {
	t.Setenv("SUBPROXY_HTTP_ADDR", "nowhere")
	file := writeConfig(t, "natz: {}\nlog: {level: loud}\nstores:\n  - id: s\n    subscriptions:\n      - {name: n, type: by_stream, selector: x, versoin: 1}\n")
	out, err := execute(t, "check", "--config", file)
	var use *command.UsageError
	if err == nil || errors.As(err, &use) || err.Error() != file+": 4 to mend" {
		t.Errorf("got %v", err)
	}
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if len(lines) != 4 {
		t.Fatalf("got\n%s", out)
	}
	for _, want := range []string{file + ":1:1: natz: ", file + ":2:14: log.level: ", file + ":6:49: stores[0].subscriptions[0].versoin: ", "SUBPROXY_HTTP_ADDR"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
}
