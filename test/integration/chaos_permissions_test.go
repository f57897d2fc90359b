//go:build unix

package integration

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/exesdb/subproxy/test/harness"
	"github.com/nats-io/nats.go"
)

// What is taken from the users of NATS that instances and emitters are, and given back, as faults of a
// schedule.

// permission is what a user may do: publish or subscribe.
type permission struct{ user, operation, subject string }

// permissions are those that schedules take, each as the target of a step has it.
var permissions = []string{
	"instance publish app.publish.>", "instance publish app.request.>", "instance publish app.stream.>",
	"instance publish exesdb.proxy.status.>", "instance publish _INBOX.>", "instance subscribe exesdb.proxy.deliver.>",
	"emitter publish exesdb.proxy.deliver.>", "emitter subscribe exesdb.stored.>",
}

func parsePermission(target string) permission {
	words := strings.Fields(target)
	return permission{words[0], words[1], words[2]}
}

// userOf is the user of NATS that a process of that name is. Who says nothing may do everything.
func userOf(process string) string {
	if strings.HasPrefix(process, "emitter") {
		return "emitter"
	}
	return "instance"
}

// writePermissions writes the configuration of that many servers.
func (w *deliveryWorld) writePermissions(servers int) {
	w.Helper()
	var b strings.Builder
	b.WriteString("no_auth_user: admin\nauthorization {users: [\n  {user: admin, password: pass}\n")
	for _, user := range []string{"instance", "emitter"} {
		fmt.Fprintf(&b, "  {user: %s, password: pass, permissions: {", user)
		for _, operation := range []string{"publish", "subscribe"} {
			var subjects []string
			for _, one := range w.denied {
				if one.user == user && one.operation == operation {
					subjects = append(subjects, strconv.Quote(one.subject))
				}
			}
			if len(subjects) > 0 {
				fmt.Fprintf(&b, "%s: {deny: [%s]}, ", operation, strings.Join(subjects, ", "))
			}
		}
		b.WriteString("}}\n")
	}
	b.WriteString("]}\n")
	if servers > 1 {
		b.WriteString("cluster {name: subproxy}\n")
	}
	for i := range servers { // a server in a cluster refuses to read a file again that lacks either name, though flags say them
		name := fmt.Sprintf("n%d", i+1)
		harness.WriteFile(w, filepath.Join(w.dir, name+".conf"), "server_name: "+name+"\n"+b.String())
	}
}

// permit denies what is given and nothing else, as the servers are told that run; others read it when they
// start.
func (w *deliveryWorld) permit(denied ...permission) {
	w.Helper()
	w.denied = denied
	w.writePermissions(len(w.nodes))
	for _, n := range w.nodes {
		if n.HasEnded() {
			continue
		}
		said := func(text string) int { return strings.Count(n.Log.String(), text) }
		w.Eventually(n.Name+" hears signals", func() bool { return said("Server is ready") > 0 || n.HasEnded() })
		const reloaded = "Reloaded server configuration"
		before := said(reloaded)
		_ = n.Signal(syscall.SIGHUP)
		w.Eventually(n.Name+" has read its configuration again", func() bool {
			if said("Failed to reload") > 0 {
				w.Fatalf("%s does not read its configuration again", n.Name)
			}
			return said(reloaded) > before || n.HasEnded()
		})
	}
}

// refusals are what alerts and statuses say of permissions.
type refusals struct {
	mu  sync.Mutex
	all []string
}

func (r *refusals) has(text string, from int) (n int, found bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, said := range r.all[from:] {
		found = found || strings.Contains(said, text)
	}
	return len(r.all), found
}

// listen hears what instances say of permissions.
func (c *chaos) listen() {
	c.Helper()
	for _, subject := range []string{"exesdb.proxy.alert.>", "exesdb.proxy.status.>"} {
		_, err := c.NC.Subscribe(subject, func(m *nats.Msg) {
			if said := string(m.Data); strings.Contains(said, "not permitted") {
				c.told.mu.Lock()
				defer c.told.mu.Unlock()
				c.told.all = append(c.told.all, said)
			}
		})
		if err != nil {
			c.Fatal(err)
		}
	}
}

// take takes a permission away. Where everything else is as it should be, it returns when that is said.
func (c *chaos) take(target string) {
	c.Helper()
	// A permission that is missing while a process starts ends it, with an error that names it. That takes
	// two seconds at the most, where another instance holds everything.
	time.Sleep(time.Until(c.startedAt.Add(2500 * time.Millisecond)))
	one := parsePermission(target)
	from, _ := c.told.has("", 0)
	begun := time.Now()
	c.took = true
	c.permit(one)
	if !c.speaks(one.user) {
		return
	}
	text := "not permitted to " + one.operation + " to " + strings.TrimSuffix(one.subject, ">")
	c.Eventually("somebody says that "+target+" is missing", func() bool {
		_, said := c.told.has(text, from)
		return said
	})
	c.Logf("%s: said after %v", target, time.Since(begun).Round(time.Millisecond))
}

// saidFor is how long a permission that nobody needs at the moment may be said to be missing after it was
// given back.
const saidFor = time.Minute

// heardWithin is how long an instance that just started may not know yet what an emitter lacks: emitters
// say it every ten seconds where nothing changes.
const heardWithin = 11 * time.Second

// awaitPermitted waits until all is healthy, and stays so, where a permission was missing.
func (c *chaos) awaitPermitted() {
	c.Helper()
	if !c.took {
		return
	}
	c.stopPublishing()  // a minute of events is more than is read back in a moment
	since := time.Now() // that all is healthy
	for deadline := time.Now().Add(saidFor + harness.Patience); time.Since(since) < heardWithin; time.Sleep(100 * time.Millisecond) {
		why := c.unhealthy()
		if why == "" {
			continue
		}
		since = time.Now()
		if since.After(deadline) {
			c.Fatalf("not healthy within %s after all permissions were given back: %s", saidFor+harness.Patience, why)
		}
	}
}

// speaks reports whether there are servers, emitters and instances enough to do, and to tell, what a
// permission is missing for.
func (c *chaos) speaks(user string) bool {
	for _, n := range c.nodes {
		if n.HasEnded() {
			return false
		}
	}
	running := func(runs map[string]*harness.Run) bool {
		for name, run := range runs {
			if !run.HasEnded() && !c.paused[name] {
				return true
			}
		}
		return false
	}
	return running(c.emitters) && running(c.proxies) && !(user == "emitter" && c.hosted) // an instance may lead
}
