package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"migrate"
	"migrate/journal"
	"migrate/source"
)

// decide carries out an operator's word on the one migration in list.
func (r *recovery) decide(ctx context.Context, list []journal.Record, opts recoverOptions) error {
	rec, err := inDoubt(list)
	if err != nil {
		return err
	}
	if err := r.confirm(rec, opts); err != nil {
		return err
	}
	r.audited("decide "+opts.decide, rec.Workload, rec.ID, rec.PeerName, nil)
	if rec.Side == migrate.Target {
		return r.decideTarget(ctx, rec, opts.decide == runHere)
	}
	m, err := r.ownMover()
	if err != nil {
		return err
	}
	o, err := patiently(ctx, func() (source.Outcome, error) { return m.Decide(ctx, rec.ID, opts.decide == runHere) })
	if err != nil {
		return err
	}
	r.add(o)
	return r.tell()
}

// inDoubt returns the record that a person may decide about.
func inDoubt(list []journal.Record) (journal.Record, error) {
	for _, rec := range list {
		if ownerOf(rec) == migrate.OwnerInDoubt {
			return rec, nil
		}
	}
	rec := list[0]
	return rec, advise(fmt.Errorf("migration %s is not in doubt here (%s)", rec.ID, rec.Phase),
		"\"migrate recover %s\" needs no decision", rec.ID)
}

// confirm makes sure that the word is meant.
func (r *recovery) confirm(rec journal.Record, opts recoverOptions) error {
	if opts.yes {
		return nil
	}
	risk := fmt.Sprintf("%s will run here; if it runs on %s too, there are two", rec.Workload, peerOf(rec))
	if opts.decide == discardHere {
		risk = fmt.Sprintf("the copy of %s here will be destroyed; if it does not run on %s, it is lost", rec.Workload, peerOf(rec))
	}
	in, ok := r.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return usagef("%s; say --yes if that is meant", risk)
	}
	r.p.note("%s", risk)
	fmt.Fprintf(r.stderr, "migrate: type yes if you are certain: ")
	word, _ := bufio.NewReader(in).ReadString('\n') // the end of input is no yes
	if strings.TrimSpace(word) != "yes" {
		return errors.New("nothing was decided")
	}
	return nil
}

// decideTarget hands the word to the agent, which holds the copy.
func (r *recovery) decideTarget(ctx context.Context, rec journal.Record, run bool) error {
	_, err := askAgent(r.runDir, localRequest{Op: "decide", ID: rec.ID, Run: run})
	if errors.Is(err, errNoAgent) {
		return advise(err, "start \"migrate agent\": it holds the copy that this is about")
	}
	if err != nil {
		return err
	}
	j, err := r.journal()
	if err != nil {
		return err
	}
	rec, err = settled(ctx, j, rec)
	if err != nil {
		return err
	}
	text := "it runs here"
	if !run {
		text = "the copy here is removed"
	}
	if ownerOf(rec) == migrate.OwnerSource && run {
		r.worse(codeFailed)
		text = "the copy here was lost before it could run"
	}
	r.add(outcomeOf(rec, text))
	return r.tell()
}

// settleTime is how long the agent may take to write down what it did.
const settleTime = 5 * time.Second

func settled(ctx context.Context, j *journal.Journal, rec journal.Record) (journal.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for {
		now, err := j.Get(rec.ID, rec.Side)
		if err != nil || now.Phase.Over() || ctx.Err() != nil {
			return now, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}
