package transport

import (
	"encoding/json"
	"time"

	"migrate"
)

// Message is one frame of the control stream. The types below are all there
// are; docs/protocol.md says who sends which and when.
type Message interface {
	// FrameType returns the number that names the message on the wire.
	FrameType() FrameType
}

// Offer opens a migration: everything the target needs for its preflight.
type Offer struct {
	ID        migrate.ID       `json:"id"`
	Workload  migrate.Workload `json:"workload"`
	Host      migrate.Host     `json:"host"`
	Options   migrate.Options  `json:"options"`
	CheckOnly bool             `json:"check-only,omitempty"` // answer, move nothing
	Monotonic Bounds           `json:"monotonic"`            // target − source, as the source measured
	Boottime  Bounds           `json:"boottime"`             // likewise
	ReplyTo   string           `json:"reply-to,omitempty"`   // address of the source's agent, "" if it has none
	CPUInfo   []byte           `json:"cpu-info,omitempty"`   // CRIU's cpuinfo image
	Init      []byte           `json:"init,omitempty"`       // content of the workload's tiny init, if it has one
	Drain     migrate.ID       `json:"drain,omitempty"`      // that the move is part of: its reservation is used
	Config    []byte           `json:"config,omitempty"`     // content of a container's config.json
	Network   json.RawMessage  `json:"network,omitempty"`    // network.Description of the workload's network namespace, if that moves
	Trees     []Tree           `json:"trees,omitempty"`      // files beside those of every host
}

// Answer is the target's preflight.
type Answer struct {
	Check migrate.Check `json:"check"`
}

// Prepare asks the target to reserve what the migration needs.
type Prepare struct {
	ID migrate.ID `json:"id"`
}

// Prepared says that pages may come, and what the target expects a restore to
// cost: the policy of pre-copy counts with it.
type Prepared struct {
	RestoreFixedNS  int64 `json:"restore-fixed-ns"`   // of any restore
	RestorePerMiBNS int64 `json:"restore-per-mib-ns"` // more for each MiB of memory that is restored eagerly
	Offers          []int `json:"offers,omitempty"`   // trees, by number, of which the target sends what it has in their place: a tree stream each, in this order
	Lazy            bool  `json:"lazy"`               // the restore will be local-lazy: its cost does not grow with the memory
}

// ClockPing starts one exchange of the clock comparison.
type ClockPing struct {
	Seq  uint32               `json:"seq"`
	Sent migrate.ClockReading `json:"sent"`
}

// ClockPong answers a ClockPing with both times of the answering host.
type ClockPong struct {
	Seq      uint32               `json:"seq"`
	Ping     migrate.ClockReading `json:"ping"` // Sent of the ClockPing
	Received migrate.ClockReading `json:"received"`
	Replied  migrate.ClockReading `json:"replied"`
}

// StreamDigest is what a page or file stream held: both ends compute it.
type StreamDigest struct {
	Batches uint64 `json:"batches"` // or files
	Pages   uint64 `json:"pages"`   // of all pieces; 0 for files
	Bytes   uint64 `json:"bytes"`   // of all frames before the end frame
	XXH3    string `json:"xxh3"`    // 128 bits over those bytes, hexadecimal
}

// RoundEnd closes a round on the source.
type RoundEnd struct {
	Round   int            `json:"round"`
	Streams []StreamDigest `json:"streams"`
	Pages   uint64         `json:"pages"`
	Final   bool           `json:"final,omitempty"`
}

// RoundAck says that everything of a round is stored.
type RoundAck struct {
	Round       int    `json:"round"`
	StoredPages uint64 `json:"stored-pages"`
}

// Bounds is how far the target's clock is ahead of the source's, and how wrong
// that may be either way.
type Bounds struct {
	OffsetNS int64 `json:"offset-ns"`
	BoundNS  int64 `json:"bound-ns"`
}

// Restore asks the target to restore and hold.
type Restore struct {
	Images    StreamDigest         `json:"images"`
	Workload  migrate.Workload     `json:"workload"`  // as it is frozen: newer than the offer's
	FrozenAt  migrate.ClockReading `json:"frozen-at"` // source's clocks
	Monotonic Bounds               `json:"monotonic"`
	Boottime  Bounds               `json:"boottime"`
	Timens    bool                 `json:"timens"`            // the images hold a time namespace
	Network   json.RawMessage      `json:"network,omitempty"` // as in Offer, and newer
	Trees     []TreeEnd            `json:"trees,omitempty"`   // those that were sent
}

// Held is the target's yes vote: restored, not running, waiting.
type Held struct {
	Clock   migrate.Clock       `json:"clock"`
	Restore migrate.RestoreMode `json:"restore"` // what the target did: eager or lazy
}

// Commit is the source's word that its copy never runs again.
type Commit struct{}

// Running says that the workload runs on the target.
type Running struct {
	ResumedAt migrate.ClockReading `json:"resumed-at"` // target's clocks
	Clock     migrate.Clock        `json:"clock"`
	PID       int                  `json:"pid"`
}

// Refused is the target's no vote: its copy never ran and never will.
type Refused struct {
	Failure migrate.Failure `json:"failure"`
}

// Finished says that the source has removed its copy.
type Finished struct{}

// Abort ends a migration before the commit point.
type Abort struct {
	Status  migrate.Status  `json:"status"`
	Failure migrate.Failure `json:"failure"`
}

// Ask wants to know what one side has on record about a migration.
type Ask struct {
	ID   migrate.ID   `json:"id"`
	Side migrate.Side `json:"side"` // whose record is wanted
}

// State answers Ask.
type State struct {
	ID      migrate.ID    `json:"id"`
	Known   bool          `json:"known"`
	Side    migrate.Side  `json:"side"`
	Phase   migrate.Phase `json:"phase,omitzero"`
	Busy    bool          `json:"busy,omitempty"`    // a live process is still deciding
	Damaged bool          `json:"damaged,omitempty"` // there is a record, and it cannot be read
}

// Verdict tells a target in doubt how its migration was decided.
type Verdict struct {
	ID     migrate.ID `json:"id"`
	Commit bool       `json:"commit"`
}

// VerdictDone answers Verdict with where the target stands after it.
type VerdictDone struct {
	Phase   migrate.Phase   `json:"phase,omitzero"`
	Failure migrate.Failure `json:"failure,omitzero"`
}

// Drive asks an agent to move a workload of its own host.
type Drive struct {
	Source    string          `json:"source"` // KIND:ID
	Target    string          `json:"target"` // HOST[:PORT]
	Options   migrate.Options `json:"options"`
	CheckOnly bool            `json:"check-only,omitempty"`
	ID        migrate.ID      `json:"id,omitempty"`    // of the migration, chosen by the client; "" leaves it to the agent. Since version 2
	Drain     migrate.ID      `json:"drain,omitempty"` // that the move is part of. Since version 2
}

// Progress reports a driven migration; the last one carries its report.
type Progress struct {
	Event migrate.Event `json:"event"`
}

// Cancel asks for the driven migration's rollback.
type Cancel struct {
	Reason string `json:"reason"`
}

// Status asks for the migrations an agent knows.
type Status struct{}

// StatusReply answers Status.
type StatusReply struct {
	Reports  []migrate.Report                `json:"reports"`
	Progress map[migrate.ID]migrate.Progress `json:"progress,omitempty"` // of those under way of which the agent's host is the source
}

// Resume is the first message on a session that takes the place of a broken
// one. The peer's name must be that of the migration's source.
type Resume struct {
	ID migrate.ID `json:"id"`
}

// Resumed answers Resume with what the target has: the rounds 1 to Round as a
// whole, and of the round after them the batches below Seq. The rest of that
// round it dropped. The source sends what is missing in a new round, numbered
// Round+1, whose Seq starts at 0.
type Resumed struct {
	Round int      `json:"round"`
	Seq   uint64   `json:"seq"`
	Trees []TreeAt `json:"trees,omitempty"` // those that are sent
}

// Describe asks an agent for the state of its host.
type Describe struct {
	Blockers bool       `json:"blockers,omitempty"` // look into each workload for what keeps it from moving
	Drain    migrate.ID `json:"drain,omitempty"`    // whose reservation counts as free
}

// Description answers Describe.
type Description struct {
	State migrate.HostState `json:"state"`
}

// Reserve asks a target to keep room for the moves of a drain. It takes the
// place of an earlier one of the same drain; one of no bytes gives up the room.
type Reserve struct {
	Drain migrate.ID    `json:"drain"`
	Bytes uint64        `json:"bytes"`  // of memory
	TTL   time.Duration `json:"ttl-ns"` // how long it holds unless it is renewed
}

// Reserved answers Reserve.
type Reserved struct {
	Free    uint64           `json:"free-bytes"` // of memory, without what is promised to others
	Failure *migrate.Failure `json:"failure,omitempty"`
}

// Cordon has a host refuse workloads, or receive them again.
type Cordon struct {
	Off    bool          `json:"off,omitempty"`    // receive again
	Drain  migrate.ID    `json:"drain,omitempty"`  // claims the host for a drain, so that no other one begins
	TTL    time.Duration `json:"ttl-ns,omitempty"` // of that claim, unless it is renewed; 0 gives it up
	Reason string        `json:"reason,omitempty"`
}

// Cordoned answers Cordon with what holds now.
type Cordoned struct {
	Cordon  *migrate.Cordon  `json:"cordon,omitempty"`
	Failure *migrate.Failure `json:"failure,omitempty"`
}

// Change changes the cap on a migration under way of which the agent's host is
// the source.
type Change struct {
	ID        migrate.ID `json:"id"`
	Bandwidth int64      `json:"bandwidth"` // bytes per second; 0 lifts the cap
}

// Changed answers Change.
type Changed struct {
	Failure *migrate.Failure `json:"failure,omitempty"`
}

// Stop asks an agent to end a workload of its host.
type Stop struct {
	Ref     string        `json:"ref"`        // KIND:ID
	Timeout time.Duration `json:"timeout-ns"` // after which it is killed
}

// Stopped answers Stop.
type Stopped struct {
	Failure *migrate.Failure `json:"failure,omitempty"`
}

// FrameType returns [FrameOffer].
func (Offer) FrameType() FrameType { return FrameOffer }

// FrameType returns [FrameAnswer].
func (Answer) FrameType() FrameType { return FrameAnswer }

// FrameType returns [FramePrepare].
func (Prepare) FrameType() FrameType { return FramePrepare }

// FrameType returns [FramePrepared].
func (Prepared) FrameType() FrameType { return FramePrepared }

// FrameType returns [FrameClockPing].
func (ClockPing) FrameType() FrameType { return FrameClockPing }

// FrameType returns [FrameClockPong].
func (ClockPong) FrameType() FrameType { return FrameClockPong }

// FrameType returns [FrameRoundEnd].
func (RoundEnd) FrameType() FrameType { return FrameRoundEnd }

// FrameType returns [FrameRoundAck].
func (RoundAck) FrameType() FrameType { return FrameRoundAck }

// FrameType returns [FrameRestore].
func (Restore) FrameType() FrameType { return FrameRestore }

// FrameType returns [FrameHeld].
func (Held) FrameType() FrameType { return FrameHeld }

// FrameType returns [FrameCommit].
func (Commit) FrameType() FrameType { return FrameCommit }

// FrameType returns [FrameRunning].
func (Running) FrameType() FrameType { return FrameRunning }

// FrameType returns [FrameRefused].
func (Refused) FrameType() FrameType { return FrameRefused }

// FrameType returns [FrameFinished].
func (Finished) FrameType() FrameType { return FrameFinished }

// FrameType returns [FrameAbort].
func (Abort) FrameType() FrameType { return FrameAbort }

// FrameType returns [FrameAsk].
func (Ask) FrameType() FrameType { return FrameAsk }

// FrameType returns [FrameState].
func (State) FrameType() FrameType { return FrameState }

// FrameType returns [FrameVerdict].
func (Verdict) FrameType() FrameType { return FrameVerdict }

// FrameType returns [FrameVerdictDone].
func (VerdictDone) FrameType() FrameType { return FrameVerdictDone }

// FrameType returns [FrameDrive].
func (Drive) FrameType() FrameType { return FrameDrive }

// FrameType returns [FrameProgress].
func (Progress) FrameType() FrameType { return FrameProgress }

// FrameType returns [FrameCancel].
func (Cancel) FrameType() FrameType { return FrameCancel }

// FrameType returns [FrameStatus].
func (Status) FrameType() FrameType { return FrameStatus }

// FrameType returns [FrameStatusReply].
func (StatusReply) FrameType() FrameType { return FrameStatusReply }

// FrameType returns [FrameResume].
func (Resume) FrameType() FrameType { return FrameResume }

// FrameType returns [FrameResumed].
func (Resumed) FrameType() FrameType { return FrameResumed }

// FrameType returns [FrameDescribe].
func (Describe) FrameType() FrameType { return FrameDescribe }

// FrameType returns [FrameDescription].
func (Description) FrameType() FrameType { return FrameDescription }

// FrameType returns [FrameReserve].
func (Reserve) FrameType() FrameType { return FrameReserve }

// FrameType returns [FrameReserved].
func (Reserved) FrameType() FrameType { return FrameReserved }

// FrameType returns [FrameCordon].
func (Cordon) FrameType() FrameType { return FrameCordon }

// FrameType returns [FrameCordoned].
func (Cordoned) FrameType() FrameType { return FrameCordoned }

// FrameType returns [FrameChange].
func (Change) FrameType() FrameType { return FrameChange }

// FrameType returns [FrameChanged].
func (Changed) FrameType() FrameType { return FrameChanged }

// FrameType returns [FrameStop].
func (Stop) FrameType() FrameType { return FrameStop }

// FrameType returns [FrameStopped].
func (Stopped) FrameType() FrameType { return FrameStopped }
