package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/exesdb/subproxy/internal/command"
	"github.com/exesdb/subproxy/pkg/control"
)

func newRestart() *cobra.Command {
	return newAction(control.Restart, &cobra.Command{
		Use: "restart STORE NAME", Short: "Stop one proxy and start it anew, with a new incarnation",
		Long: `Stop one proxy and start it anew: failures are forgotten, the breaker is closed, and the subscription is registered
at once, with a new incarnation and deliver subject. It answers when the registration is verified.`,
		Example: "  subproxy restart greenhouse_tycoon greenhouse_initialized_to_pubsub_v1",
		Args:    command.Args(2, 2, "a STORE and a NAME"),
	})
}

func newReregister() *cobra.Command {
	return newAction(control.Reregister, &cobra.Command{
		Use: "reregister [STORE [NAME]]", Short: "Register subscriptions anew, now",
		Long:    "Register one subscription, those of a store, or all of them anew, whatever their breakers say. It answers when that is done.",
		Example: "  subproxy reregister\n  subproxy reregister greenhouse_tycoon",
		Args:    command.Args(0, 2, "STORE and NAME, both optional"),
	})
}

func newAction(verb control.Verb, cmd *cobra.Command) *cobra.Command {
	var nf natsFlags
	var asJSON bool
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		store, name := storeAndName(args)
		answers, err := act(cmd.Context(), &nf, verb, control.Request{Store: store, Name: name})
		if err != nil {
			return err
		}
		if asJSON {
			return command.WriteJSON(cmd.OutOrStdout(), answers)
		}
		affected, verified := 0, 0
		for _, a := range answers {
			affected, verified = affected+a.Affected, verified+a.Verified
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d of %d registered and verified\n", a.Instance.Name, a.Verified, a.Affected)
		}
		if verified < affected {
			return fmt.Errorf("%d of %d are not registered; see subproxy status", affected-verified, affected)
		}
		return nil
	}
	nf.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the instances' answers as JSON")
	return cmd
}

func act(ctx context.Context, nf *natsFlags, verb control.Verb, r control.Request) ([]control.ActionAnswer, error) {
	nc, _, err := nf.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	answers, err := control.NewClient(nc).Request(ctx, verb, r)
	if err != nil {
		return nil, fmt.Errorf("%s %s/%s: %w", verb, r.Store, r.Name, err)
	}
	return answers, nil
}
