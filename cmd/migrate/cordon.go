package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"migrate"
	"migrate/internal/cordon"
	"migrate/transport"
)

const cordonLong = `Has HOST, or this host, refuse to receive workloads, until "migrate uncordon".
Those that are there stay, and can be moved away. "migrate drain" does this by
itself. HOST's agent must know this machine's certificate with --allow-operator.

Exit status:
  0  cordoned
  1  the command line is wrong
  3  not root, or no certificate
  4  it could not be done: a drain is at work there, or no agent answers`

const uncordonLong = `Has HOST, or this host, receive workloads again, after "migrate cordon" or
"migrate drain". HOST's agent must know this machine's certificate with
--allow-operator.

Exit status:
  0  it receives workloads
  1  the command line is wrong
  3  not root, or no certificate
  4  it could not be done: a drain is at work there, or no agent answers`

func newCordonCommand(a *app) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:     "cordon [HOST]",
		Short:   "Have a host refuse workloads",
		Long:    cordonLong,
		Example: "  migrate cordon hostA --reason \"new disk on Friday\"",
		Args:    atMostOne("HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCordon(cmd.Context(), a, strings.Join(args, ""), cordon.Wish{Reason: reason})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "in your words: who is refused is told")
	return cmd
}

func newUncordonCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "uncordon [HOST]",
		Short:   "Have a host receive workloads again",
		Long:    uncordonLong,
		Example: "  migrate uncordon hostA",
		Args:    atMostOne("HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCordon(cmd.Context(), a, strings.Join(args, ""), cordon.Wish{Off: true})
		},
	}
}

func runCordon(ctx context.Context, a *app, host string, w cordon.Wish) error {
	word := "cordoned"
	if w.Off {
		word = "uncordoned"
	}
	if host == "" {
		if err := needRoot("the state of a host belongs to root"); err != nil {
			return err
		}
		err := a.cordon(w)
		a.audited(strings.TrimSuffix(word, "ed"), "", "", "", err)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.stdout, hostname(), word)
		return err
	}
	if err := checkTarget(host); err != nil {
		return err
	}
	id, err := a.identity()
	if err != nil {
		return &blockedError{err}
	}
	h := a.remoteHost(id, host, migrate.Options{}.WithDefaults())
	if err := h.wish(ctx, transport.Cordon{Off: w.Off, Reason: w.Reason}); err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, host, word)
	return err
}
