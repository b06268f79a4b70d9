package journal

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"migrate"
)

// This file explores every order in which two hosts can go through the commit:
// every message may be lost, late or repeated, every process may die before and
// after each journal write and each effect, and come back. The hosts of the
// model decide by the tables under test and by nothing else.

// tree is one copy of the workload.
type tree uint8

const (
	absent tree = iota
	stopped
	runs
)

// host is one side as it stands. It is a comparable value, so that a state of
// both is a map key.
type host struct {
	phase  migrate.Phase
	alive  bool // a process holds the record
	undo   bool // that process has decided to roll back (memory: lost when it dies)
	lost   bool // target only: copy and store are gone, so nothing can be restored
	copy   tree
	heard  Peer // last answer about the peer, which may be old
	deaths uint8
}

// state is both hosts and every message ever sent. Messages never leave, so
// each may arrive at any time, any number of times, or never.
type state struct {
	source, target                host
	offer, vote, commit, ran, rej bool
	journalLost                   bool
}

// tables are the decisions under test, replaceable to see that the model
// notices bad ones.
type tables struct {
	recovery func(migrate.Side, migrate.Phase) Action
	verdict  func(migrate.Side, migrate.Phase, Peer) Action
}

const maxDeaths = 2 // of each side

// A move is one thing that can happen. Trouble may happen but never has to.
type modelMove struct {
	name    string
	to      state
	trouble bool
}

type model struct {
	tables
	loseJournals bool
	illegal      []string
	out          []modelMove
}

// moves returns everything that can happen in s.
func (m *model) moves(s state) []modelMove {
	m.out = m.out[:0]
	m.source(s)
	m.target(s)
	m.network(s)
	m.trouble(s)
	return m.out
}

func (m *model) add(name string, s state, trouble bool) {
	m.out = append(m.out, modelMove{name, s, trouble})
}

// source adds what the source can do next.
func (m *model) source(s state) {
	if !s.source.alive {
		return
	}
	do := func(name string, change func(*state)) {
		to := s
		change(&to)
		m.add("source: "+name, to, false)
	}
	step := func(p migrate.Phase) {
		m.check(migrate.Source, s.source.phase, p)
		do("journal "+p.String(), func(t *state) { t.source.phase = p })
	}
	if s.source.undo {
		m.sourceUndo(s, do, step)
		return
	}
	phase := s.source.phase
	if phase < migrate.Commit {
		do("give up", func(t *state) { t.source.undo = true })
	}
	switch {
	case phase == migrate.PreCopy:
		step(migrate.Freeze)
	case phase == migrate.Freeze && s.source.copy == runs:
		do("freeze", func(t *state) { t.source.copy = stopped })
	case phase == migrate.Freeze:
		step(migrate.StopAndCopy)
	case phase == migrate.StopAndCopy:
		step(migrate.Restore)
	case phase == migrate.Restore && !s.offer:
		do("send offer", func(t *state) { t.offer = true })
	case phase == migrate.Restore && s.vote:
		step(migrate.Commit)
	case phase == migrate.Commit:
		m.sourceCommit(s, do, step)
	case phase == migrate.Finish && s.source.copy == stopped:
		do("kill", func(t *state) { t.source.copy = absent })
	case phase == migrate.Finish:
		step(migrate.Done)
	}
}

func (m *model) sourceUndo(s state, do func(string, func(*state)), step func(migrate.Phase)) {
	switch {
	case s.source.copy == stopped:
		do("thaw", func(t *state) { t.source.copy = runs })
	case s.source.phase != migrate.RolledBack:
		step(migrate.RolledBack)
	case !s.rej:
		do("send abort", func(t *state) { t.rej = true })
	}
}

func (m *model) sourceCommit(s state, do func(string, func(*state)), step func(migrate.Phase)) {
	if !s.commit {
		do("send commit", func(t *state) { t.commit = true })
	}
	if s.ran {
		step(migrate.Finish)
	}
	if s.source.heard.Answer == 0 {
		return
	}
	switch m.verdict(migrate.Source, migrate.Commit, s.source.heard) {
	case Finish:
		step(migrate.Finish)
	case Thaw:
		do("thaw after refusal", func(t *state) { t.source.undo = true })
	case SendCommit:
		do("send commit again", func(t *state) { t.commit = true })
	}
}

// target adds what the target can do next.
func (m *model) target(s state) {
	if !s.target.alive {
		return
	}
	do := func(name string, change func(*state)) {
		to := s
		change(&to)
		m.add("target: "+name, to, false)
	}
	step := func(p migrate.Phase) {
		m.check(migrate.Target, s.target.phase, p)
		do("journal "+p.String(), func(t *state) { t.target.phase = p })
	}
	phase := s.target.phase
	if s.target.undo {
		switch {
		case s.target.copy != absent:
			do("discard", func(t *state) { t.target.copy = absent })
		case phase != migrate.RolledBack:
			step(migrate.RolledBack)
		}
		return
	}
	undo := func() { do("give up", func(t *state) { t.target.undo = true }) }
	if phase < migrate.Held {
		undo()
	}
	switch {
	case phase == migrate.StopAndCopy && s.offer:
		step(migrate.Restore)
	case phase == migrate.Restore && s.target.copy == absent:
		do("restore", func(t *state) { t.target.copy = stopped })
	case phase == migrate.Restore:
		step(migrate.Held)
	case phase == migrate.Held:
		m.targetHeld(s, do, step, undo)
	case phase == migrate.Commit && s.target.copy != runs:
		do("run", func(t *state) { t.target.copy = runs })
	case phase == migrate.Commit:
		step(migrate.Finish)
	case phase == migrate.Finish:
		step(migrate.Done)
	}
	if phase >= migrate.Finish && phase != migrate.RolledBack && !s.ran {
		do("send running", func(t *state) { t.ran = true })
	}
}

func (m *model) targetHeld(s state, do func(string, func(*state)), step func(migrate.Phase), undo func()) {
	resume := func() {
		if s.target.lost {
			undo() // it never ran and cannot: that refusal lets the source thaw
			return
		}
		step(migrate.Commit)
	}
	if !s.vote && !s.target.lost {
		do("send vote", func(t *state) { t.vote = true })
	}
	if s.commit {
		resume()
	}
	if s.rej {
		undo()
	}
	if s.target.heard.Answer == 0 {
		return
	}
	switch m.verdict(migrate.Target, migrate.Held, s.target.heard) {
	case Resume:
		resume()
	case Discard:
		undo()
	}
}

// network adds questions and answers: a host answers for its record at one
// moment, and the peer acts on it at any later one. The agent that answers need
// not be the process that decides.
func (m *model) network(s state) {
	to := s
	to.source.heard = peerOf(s.target, s.journalLost)
	m.add("source hears "+to.source.heard.Phase.String(), to, false)
	to = s
	to.target.heard = peerOf(s.source, s.journalLost)
	m.add("target hears "+to.target.heard.Phase.String(), to, false)
}

func peerOf(h host, lost bool) Peer {
	if lost && !h.alive {
		return Peer{Answer: Absent}
	}
	return Peer{Answer: Present, Phase: h.phase, Live: h.alive}
}

// trouble adds deaths, which lose what is in memory and leave both copies as
// they are, and recoveries by the table.
func (m *model) trouble(s state) {
	for _, side := range []migrate.Side{migrate.Source, migrate.Target} {
		h := s.host(side)
		if h.alive && h.deaths < maxDeaths {
			to := s
			to.host(side).die()
			m.add(string(side)+" dies", to, true)
			if side == migrate.Target && h.phase == migrate.Held {
				to.target.copy, to.target.lost = absent, true
				m.add("target reboots", to, true)
			}
		}
		if !h.alive && !s.journalLost {
			to := s
			m.recover(to.host(side), side)
			m.add(string(side)+" recovers", to, false)
		}
	}
	if m.loseJournals && !s.journalLost && !s.source.alive && !s.target.alive {
		// Both have lost their records; whichever is alive later has none.
		to := s
		to.journalLost = true
		m.add("journals lost", to, true)
	}
	if m.loseJournals && !s.journalLost && s.source.alive != s.target.alive {
		to := s
		to.journalLost = true
		m.add("journal of the dead side lost", to, true)
	}
}

func (s *state) host(side migrate.Side) *host {
	if side == migrate.Source {
		return &s.source
	}
	return &s.target
}

func (h *host) die() {
	h.alive, h.undo, h.heard = false, false, Peer{}
	h.deaths++
}

// recover starts a process that does what the table says. It needs no more
// than to be told to undo: for the rest the record's phase says how to go on.
func (m *model) recover(h *host, side migrate.Side) {
	h.alive = true
	switch m.recovery(side, h.phase) {
	case Thaw, Discard:
		h.undo = true
	}
}

func (m *model) check(side migrate.Side, from, to migrate.Phase) {
	if !legal(side, from, to) {
		m.illegal = append(m.illegal, fmt.Sprintf("%s from %v to %v", side, from, to))
	}
}

func start() state {
	return state{
		source: host{phase: migrate.PreCopy, alive: true, copy: runs},
		target: host{phase: migrate.StopAndCopy, alive: true},
	}
}

// ended reports whether one copy runs and both sides know where.
func (s state) ended() bool {
	return s.source.phase.Over() && s.target.phase.Over() &&
		(s.source.copy == runs) != (s.target.copy == runs)
}

// explored is every state that can come about, with how it first did.
type explored struct {
	states  []state
	index   map[state]int
	from    []int
	name    []string
	forward [][]int // moves that are no trouble
}

func (m *model) explore() *explored {
	e := &explored{index: map[state]int{start(): 0}, states: []state{start()}, from: []int{-1}, name: []string{"start"}}
	for i := 0; i < len(e.states); i++ {
		var next []int
		for _, mv := range m.moves(e.states[i]) {
			j, ok := e.index[mv.to]
			if !ok {
				j = len(e.states)
				e.index[mv.to] = j
				e.states, e.from, e.name = append(e.states, mv.to), append(e.from, i), append(e.name, mv.name)
			}
			if !mv.trouble {
				next = append(next, j)
			}
		}
		e.forward = append(e.forward, next)
	}
	return e
}

// trace says how a state came about.
func (e *explored) trace(i int) string {
	var steps []string
	for ; i >= 0; i = e.from[i] {
		steps = append(steps, e.name[i])
	}
	slices.Reverse(steps)
	return strings.Join(steps, "\n\t")
}

// two returns a state in which both copies run, or -1.
func (e *explored) two() int {
	return slices.IndexFunc(e.states, func(s state) bool { return s.source.copy == runs && s.target.copy == runs })
}

// none returns a state in which the source's copy is gone before another runs,
// or -1.
func (e *explored) none() int {
	return slices.IndexFunc(e.states, func(s state) bool { return s.source.copy == absent && s.target.copy != runs })
}

// stuck returns a state from which no end can be reached though no more
// trouble happens, or -1.
func (e *explored) stuck() int {
	back := make([][]int, len(e.states))
	for i, next := range e.forward {
		for _, j := range next {
			back[j] = append(back[j], i)
		}
	}
	good := make([]bool, len(e.states))
	var queue []int
	for i, s := range e.states {
		if s.ended() {
			good[i] = true
			queue = append(queue, i)
		}
	}
	for len(queue) > 0 {
		i := queue[0]
		queue = queue[1:]
		for _, j := range back[i] {
			if !good[j] {
				good[j] = true
				queue = append(queue, j)
			}
		}
	}
	return slices.Index(good, false)
}

func real() tables { return tables{Recovery, Verdict} }

// TestExactlyOneCopy is the promise of the whole tool.
func TestExactlyOneCopy(t *testing.T) {
	m := &model{tables: real()}
	e := m.explore()
	t.Logf("%d states", len(e.states))
	if len(m.illegal) > 0 {
		t.Errorf("illegal steps: %q", slices.Compact(m.illegal))
	}
	if i := e.two(); i >= 0 {
		t.Errorf("two copies run after\n\t%s", e.trace(i))
	}
	if i := e.none(); i >= 0 {
		t.Errorf("the last copy was removed after\n\t%s", e.trace(i))
	}
	if i := e.stuck(); i >= 0 {
		t.Errorf("no copy can ever run, or no side ever knows, after\n\t%s\n%+v", e.trace(i), e.states[i])
	}
	if n := len(e.states); n < 1000 {
		t.Errorf("explored %d states: the model does not move", n)
	}
}

// TestLostJournalNeverMakesTwo: with a record gone the tool may have to wait
// for an operator, for ever, but it must not guess.
func TestLostJournalNeverMakesTwo(t *testing.T) {
	m := &model{tables: real(), loseJournals: true}
	e := m.explore()
	if i := e.two(); i >= 0 {
		t.Errorf("two copies run after\n\t%s", e.trace(i))
	}
	if i := e.none(); i >= 0 {
		t.Errorf("the last copy was removed after\n\t%s", e.trace(i))
	}
}

// TestModelNoticesBadTables makes sure that the model can fail.
func TestModelNoticesBadTables(t *testing.T) {
	recoverAs := func(side migrate.Side, p migrate.Phase, a Action) tables {
		tb := real()
		tb.recovery = func(s migrate.Side, q migrate.Phase) Action {
			if s == side && q == p {
				return a
			}
			return Recovery(s, q)
		}
		return tb
	}
	answerAs := func(side migrate.Side, match func(Peer) bool, a Action) tables {
		tb := real()
		tb.verdict = func(s migrate.Side, mine migrate.Phase, p Peer) Action {
			if s == side && match(p) {
				return a
			}
			return Verdict(s, mine, p)
		}
		return tb
	}
	for name, c := range map[string]struct {
		tables           tables
		lose             bool
		two, none, stuck bool
	}{
		"source thaws in commit":              {tables: recoverAs(migrate.Source, migrate.Commit, Thaw), two: true},
		"source finishes when target is held": {tables: answerAs(migrate.Source, func(p Peer) bool { return p.Phase == migrate.Held }, Finish), none: true, stuck: true},
		"source thaws when target is held":    {tables: answerAs(migrate.Source, func(p Peer) bool { return p.Phase == migrate.Held }, Thaw), two: true},
		"target resumes undecided":            {tables: answerAs(migrate.Target, func(p Peer) bool { return p.Phase == migrate.Restore }, Resume), two: true},
		"target waits for a dead source":      {tables: answerAs(migrate.Target, func(p Peer) bool { return p.Phase != migrate.Commit }, Wait), stuck: true},
		"source waits for a refusal":          {tables: answerAs(migrate.Source, func(p Peer) bool { return p.Phase == migrate.RolledBack }, Wait), stuck: true},
		"source presumes abort":               {tables: answerAs(migrate.Source, func(p Peer) bool { return p.Answer == Absent }, Thaw), lose: true, two: true},
		"target presumes commit":              {tables: answerAs(migrate.Target, func(p Peer) bool { return p.Answer == Absent }, Resume), lose: true, two: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := &model{tables: c.tables, loseJournals: c.lose}
			e := m.explore()
			if got := e.two() >= 0; got != c.two {
				t.Errorf("two copies = %v, want %v", got, c.two)
			}
			if got := e.none() >= 0; got != c.none {
				t.Errorf("last copy removed = %v, want %v", got, c.none)
			}
			if got := e.stuck() >= 0; c.stuck && !got {
				t.Error("no stuck state found")
			}
		})
	}
}
