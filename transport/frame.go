package transport

import (
	"encoding/binary"
	"fmt"
)

// FrameType names a frame. Values go over the wire: never reuse or renumber
// one.
type FrameType uint8

// Frames of the control stream; the payload is one JSON object.
const (
	FrameOffer       FrameType = 0x01
	FrameAnswer      FrameType = 0x02
	FramePrepare     FrameType = 0x03
	FramePrepared    FrameType = 0x04
	FrameClockPing   FrameType = 0x05
	FrameClockPong   FrameType = 0x06
	FrameRoundEnd    FrameType = 0x07
	FrameRoundAck    FrameType = 0x08
	FrameRestore     FrameType = 0x09
	FrameHeld        FrameType = 0x0a
	FrameCommit      FrameType = 0x0b
	FrameRunning     FrameType = 0x0c
	FrameRefused     FrameType = 0x0d
	FrameFinished    FrameType = 0x0e
	FrameAbort       FrameType = 0x0f
	FrameAsk         FrameType = 0x10
	FrameState       FrameType = 0x11
	FrameVerdict     FrameType = 0x12
	FrameVerdictDone FrameType = 0x13
	FrameDrive       FrameType = 0x14
	FrameProgress    FrameType = 0x15
	FrameCancel      FrameType = 0x16
	FrameStatus      FrameType = 0x17
	FrameStatusReply FrameType = 0x18
	FrameResume      FrameType = 0x19
	FrameResumed     FrameType = 0x1a
	FrameLook        FrameType = 0x1b
	FrameLooked      FrameType = 0x1c
	FramePassAck     FrameType = 0x1d
)

// Frames of the control stream for those who plan and operate, since version 2.
const (
	FrameDescribe    FrameType = 0x30
	FrameDescription FrameType = 0x31
	FrameReserve     FrameType = 0x32
	FrameReserved    FrameType = 0x33
	FrameCordon      FrameType = 0x34
	FrameCordoned    FrameType = 0x35
	FrameChange      FrameType = 0x36
	FrameChanged     FrameType = 0x37
	FrameStop        FrameType = 0x38
	FrameStopped     FrameType = 0x39
)

// since is the protocol version that brought a frame, 1 if it is not here.
var since = map[FrameType]uint16{
	FrameDescribe: 2, FrameDescription: 2, FrameReserve: 2, FrameReserved: 2, FrameCordon: 2, FrameCordoned: 2,
	FrameChange: 2, FrameChanged: 2, FrameStop: 2, FrameStopped: 2,
	FrameLook: 2, FrameLooked: 2, FramePassAck: 2, FrameTreeStart: 2, FramePackedData: 2,
}

// spoken reports whether a frame exists in a version of the protocol.
func (t FrameType) spoken(version uint16) bool { return since[t] <= version }

// Frames of page and file streams; the payload is binary.
const (
	FramePagesStart FrameType = 0x40
	FrameBatch      FrameType = 0x41
	FrameFilesStart FrameType = 0x42
	FrameFileHeader FrameType = 0x43
	FrameFileData   FrameType = 0x44
	FrameStreamEnd  FrameType = 0x45
	FrameTreeStart  FrameType = 0x46
	FramePackedData FrameType = 0x47
)

var frameNames = map[FrameType]string{
	FrameOffer: "Offer", FrameAnswer: "Answer", FramePrepare: "Prepare", FramePrepared: "Prepared",
	FrameClockPing: "ClockPing", FrameClockPong: "ClockPong", FrameRoundEnd: "RoundEnd", FrameRoundAck: "RoundAck",
	FrameRestore: "Restore", FrameHeld: "Held", FrameCommit: "Commit", FrameRunning: "Running",
	FrameRefused: "Refused", FrameFinished: "Finished", FrameAbort: "Abort", FrameAsk: "Ask",
	FrameState: "State", FrameVerdict: "Verdict", FrameVerdictDone: "VerdictDone", FrameDrive: "Drive",
	FrameProgress: "Progress", FrameCancel: "Cancel", FrameStatus: "Status", FrameStatusReply: "StatusReply",
	FrameResume: "Resume", FrameResumed: "Resumed", FrameLook: "Look", FrameLooked: "Looked", FramePassAck: "PassAck",
	FrameDescribe: "Describe", FrameDescription: "Description", FrameReserve: "Reserve", FrameReserved: "Reserved",
	FrameCordon: "Cordon", FrameCordoned: "Cordoned", FrameChange: "Change", FrameChanged: "Changed",
	FrameStop: "Stop", FrameStopped: "Stopped",
	FramePagesStart: "PagesStart", FrameBatch: "Batch", FrameFilesStart: "FilesStart",
	FrameFileHeader: "FileHeader", FrameFileData: "FileData", FrameStreamEnd: "StreamEnd",
	FrameTreeStart: "TreeStart", FramePackedData: "PackedData",
}

// String returns the frame's name in docs/protocol.md.
func (t FrameType) String() string {
	if s, ok := frameNames[t]; ok {
		return s
	}
	return fmt.Sprintf("frame type %#02x", uint8(t))
}

// Limits of the protocol, in bytes unless said otherwise. A frame above its
// limit is a protocol error, found before anything is allocated for it.
const (
	MaxControl   = 4 << 20   // payload of a control frame
	MaxBatchData = 1 << 20   // content of the pieces of one batch, not compressed
	MaxPieces    = 4096      // pieces of one batch
	MaxDelta     = 2047      // one page's delta; a longer one saves too little
	MaxAhead     = 4 << 20   // frames of a round from the oldest that is not sent yet to the newest begun, on all its streams
	MaxFileChunk = 256 << 10 // payload of a FileData frame, and what a PackedData frame holds
	MaxFileName  = 255       // name of a file
	MaxFiles     = 65536     // files of one stream
	MaxHostName  = 255       // name in a Hello
)

// headerLen is the size of the header in front of every frame's payload.
const headerLen = 6

type header struct {
	Type   FrameType
	Length uint32 // of the payload
}

func (h header) appendTo(b []byte) []byte {
	b = append(b, byte(h.Type), 0)
	return binary.BigEndian.AppendUint32(b, h.Length)
}

// parseHeader reads the first headerLen bytes of b and checks the length
// against what the frame type may have.
func parseHeader(b []byte) (header, error) {
	if len(b) < headerLen {
		return header{}, fmt.Errorf("%w: frame header of %d bytes", ErrProtocol, len(b))
	}
	h := header{FrameType(b[0]), binary.BigEndian.Uint32(b[2:])}
	if b[1] != 0 {
		return header{}, fmt.Errorf("%w: %v with flags %#02x", ErrProtocol, h.Type, b[1])
	}
	low, high, ok := payloadLimits(h.Type)
	if !ok {
		return header{}, fmt.Errorf("%w: unknown %v", ErrProtocol, h.Type)
	}
	if h.Length < low || h.Length > high {
		return header{}, fmt.Errorf("%w: %v of %d bytes, want %d to %d", ErrProtocol, h.Type, h.Length, low, high)
	}
	return h, nil
}

func payloadLimits(t FrameType) (low, high uint32, ok bool) {
	switch t {
	case FramePagesStart, FrameFilesStart:
		return 0, 0, true
	case FrameBatch:
		return batchHeadLen, maxBatchPayload, true
	case FrameFileHeader:
		return fileHeadLen + 1, fileHeadLen + MaxFileName, true
	case FrameFileData:
		return 1, MaxFileChunk, true
	case FrameStreamEnd:
		return endLen, endLen, true
	case FrameTreeStart:
		return treeHeadLen, treeHeadLen, true
	case FramePackedData:
		return packedHeadLen + 1, packedHeadLen + MaxFileChunk, true
	}
	_, ok = messages[t]
	return 2, MaxControl, ok
}
